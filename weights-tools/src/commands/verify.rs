//! The command that recomputes golden cases: its options and its table.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use omni_core::{Dtype, Result};
use qwen3_omni::Device;

use super::terminal::{Output, say};
use crate::verify::{self, CaseReport, Outcome};

/// Recompute golden cases of the reference and compare every tensor
#[derive(Debug, Args)]
pub struct Verify {
    /// Checkpoint directory
    #[arg(long)]
    model: PathBuf,
    /// Directory of golden cases
    #[arg(long)]
    golden: PathBuf,
    /// Only cases whose names start with one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// What computes [default: host on the CPU, device elsewhere]
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// f32, bf16 or f16
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// The reference's own errors in that number type (JSON), which limit ours
    #[arg(long)]
    reference_errors: Option<PathBuf>,
    /// Do not fail because of cases that this version cannot run
    #[arg(long)]
    allow_uncovered: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engine {
    /// Host memory, with this workspace's CPU kernels
    Host,
    /// burn tensors
    Device,
}

impl From<Engine> for verify::Engine {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Host => verify::Engine::Host,
            Engine::Device => verify::Engine::Device,
        }
    }
}

impl Verify {
    /// Recomputes the cases, and returns whether all that belong to the checkpoint pass.
    ///
    /// # Errors
    /// The errors of [`verify::run`].
    pub fn run(self, out: &Output) -> Result<bool> {
        let Self { model, golden, only, device, engine, dtype, reference_errors, allow_uncovered, json } = self;
        let engine = engine.map(verify::Engine::from);
        let options = verify::Options { model, golden, only, device, engine, dtype, reference_errors };
        run(&options, allow_uncovered, json, out)
    }
}

fn run(options: &verify::Options, allow_uncovered: bool, json: bool, out: &Output) -> Result<bool> {
    if !json {
        say!(out, "{:28} {:30} {:>12} {:>12}  verdict", "case", "tensor", "max error", "tolerance");
    }
    // A failing device panics inside the framework; the case's verdict says so, the backtrace adds nothing.
    std::panic::set_hook(Box::new(|_| {}));
    let reports = verify::run(options, |report| {
        if !json {
            print_case(report, out);
        }
    });
    let _ = std::panic::take_hook();
    let reports = reports?;
    let any = reports.iter().any(|report| report.outcome == Outcome::Passed);
    let passed = any && reports.iter().all(|report| report.passes(allow_uncovered));
    if json {
        out.json(&serde_json::json!({"passed": passed, "cases": reports}));
    } else {
        print_summary(&reports, passed, out);
    }
    Ok(passed)
}

fn print_case(report: &CaseReport, out: &Output) {
    for check in &report.checks {
        let error = check.max_abs_error.map_or_else(|| "-".into(), |error| format!("{error:.1e}"));
        let tolerance = if check.tolerance == 0.0 { "exact".into() } else { format!("{:.1e}", check.tolerance) };
        let verdict = if check.passed { "ok" } else { "FAIL" };
        let note = check.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        say!(out, "{:28} {:30} {error:>12} {tolerance:>12}  {verdict}{note}", report.case, check.tensor);
    }
    match &report.outcome {
        Outcome::Passed => {}
        Outcome::Failed(reason) => say!(out, "{:28} FAILED: {reason}", report.case),
        Outcome::NotCovered(reason) => say!(out, "{:28} not covered: {reason}", report.case),
        Outcome::Absent(reason) => say!(out, "{:28} skipped: {reason}", report.case),
    }
}

fn print_summary(reports: &[CaseReport], passed: bool, out: &Output) {
    let count = |wanted: fn(&Outcome) -> bool| reports.iter().filter(|report| wanted(&report.outcome)).count();
    say!(
        out,
        "{} cases passed, {} failed, {} not covered, {} skipped: {}",
        count(|o| matches!(o, Outcome::Passed)),
        count(|o| matches!(o, Outcome::Failed(_))),
        count(|o| matches!(o, Outcome::NotCovered(_))),
        count(|o| matches!(o, Outcome::Absent(_))),
        if passed { "verified" } else { "NOT verified" },
    );
}
