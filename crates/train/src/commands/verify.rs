use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use qwen3_omni_train::verify::{Check, Checks, Model, Outcome};
use qwen3_omni_train::{Error, Result};

use super::say;

/// Recompute golden losses, gradients and optimiser steps.
///
/// Prints for each case the quantities that come closest to their limits: case, quantity, difference, limit, verdict. Succeeds only if
/// every case of the directory is known and passes.
#[derive(Args)]
#[command(after_help = "Example: qwen3-omni-train verify --model tiny --golden golden --only talker,dpo")]
pub(crate) struct Verify {
    /// Checkpoint the golden cases were made with.
    #[arg(long)]
    model: PathBuf,
    /// Directory of golden cases: CASE.json and CASE.safetensors.
    #[arg(long)]
    golden: PathBuf,
    /// Only these cases, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Print every compared quantity.
    #[arg(long)]
    all: bool,
}

impl Verify {
    /// Returns whether every case is covered and passed.
    pub(crate) fn run(&self) -> Result<bool> {
        let model = Model::open(&self.model, &self.golden, &Device::default())?;
        let cases = model.cases()?;
        if let Some(unknown) = self.only.iter().find(|name| !cases.contains(name)) {
            let reason = format!("there is no case `{unknown}` among {}", cases.join(", "));
            return Err(Error::Golden { path: self.golden.clone(), reason });
        }
        let mut good = true;
        for case in cases.iter().filter(|case| self.only.is_empty() || self.only.contains(case)) {
            let outcome = model.run(case)?;
            good &= outcome.passed();
            match &outcome {
                Outcome::Unknown => say(format_args!("{case}: not covered: no case of this name is known")),
                Outcome::Checked(checks) => self.report(case, checks),
            }
        }
        say(format_args!("{}", if good { "all cases passed" } else { "failed" }));
        Ok(good)
    }

    fn report(&self, case: &str, checks: &Checks) {
        let shown: Vec<&Check> = match self.all {
            true => checks.0.iter().collect(),
            false => {
                let failed = checks.0.iter().filter(|check| !check.passed());
                let near = checks.worst().into_iter().filter(|check| check.passed());
                failed.chain(near).collect()
            }
        };
        for check in shown {
            let verdict = if check.passed() { "ok" } else { "FAILED" };
            let Check { quantity, difference, limit } = check;
            say(format_args!("{case:<24} {quantity:<64} {difference:>9.2e} {limit:>9.2e}  {verdict}"));
        }
    }
}
