//! The commands that write checkpoints: their options, progress and reports.

use std::path::PathBuf;

use clap::Args;
use omni_core::{Dtype, Error, Result};
use qwen3_omni::{Component, Device};

use super::compare::print;
use super::progress::Watch;
use super::terminal::{Output, say};
use crate::compare::{self, Prompts};
use crate::quantize::{self, Grouping, Plan, Recipe, Report, ReportFile};
use crate::{convert, init};

/// Which linear layers are quantised, and how.
#[derive(Debug, Args)]
struct PlanArguments {
    /// 24gb, 48gb or 80gb: a choice per module that fits a GPU of this size
    #[arg(long)]
    recipe: Option<Recipe>,
    /// 4 or 8, instead of the recipe's; without a recipe for every linear layer but those of code2wav
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=8))]
    bits: Option<u32>,
    /// Inputs that share a scale: 32, 128 or channel [without a recipe: 32 for 4 bits, 128 for 8]
    #[arg(long)]
    group: Option<Grouping>,
    /// With zero points
    #[arg(long)]
    asymmetric: bool,
    /// Only these parts: thinker, audio-encoder, vision-encoder, talker, code-predictor, code2wav
    #[arg(long, value_delimiter = ',', value_parser = component)]
    only: Vec<Component>,
    /// A module to leave as it is: its full name, or `re:` and a pattern; may be repeated
    #[arg(long)]
    ignore: Vec<String>,
}

/// How a directory is written.
#[derive(Debug, Args)]
struct TargetArguments {
    /// Size of a shard in megabytes
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    shard_mb: u64,
    /// Start over if the directory is half-written
    #[arg(long)]
    restart: bool,
}

/// Write a random-weight checkpoint in the released layout, quantised if a recipe or bits are given
#[derive(Debug, Args)]
pub struct Init {
    /// A config.json of any size
    #[arg(long)]
    config: PathBuf,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Directory to make
    #[arg(long)]
    out: PathBuf,
    /// Layers of thinker and talker, if not the config's
    #[arg(long)]
    layers: Option<usize>,
    /// Write config and tokenizer only: the weights are drawn when the directory is loaded with `random_weights`
    #[arg(long)]
    no_weights: bool,
    /// Draw values that training can begin with; without it, they are for tests and benchmarks
    #[arg(long, conflicts_with_all = ["no_weights", "PlanArguments"])]
    for_training: bool,
    /// f32, bf16 or f16, for what is not quantised
    #[arg(long, default_value = "bf16")]
    dtype: Dtype,
    #[command(flatten)]
    plan: PlanArguments,
    #[command(flatten)]
    target: TargetArguments,
}

/// Quantise the linear layers of a checkpoint, in the layout of compressed-tensors
#[derive(Debug, Args)]
pub struct Quantize {
    /// Checkpoint directory
    source: PathBuf,
    /// Directory to make; the same command resumes a half-written one
    out: PathBuf,
    #[command(flatten)]
    plan: PlanArguments,
    /// f32, bf16 or f16, for what is not quantised
    #[arg(long, default_value = "bf16")]
    dtype: Dtype,
    /// Write the error of every tensor to this JSON file
    #[arg(long)]
    report: Option<PathBuf>,
    /// Then run both checkpoints on the questions of this text file, one per line, and compare their outputs
    #[arg(long, conflicts_with = "golden")]
    prompts: Option<PathBuf>,
    /// Then run both checkpoints on the inputs of these golden cases and compare their outputs
    #[arg(long)]
    golden: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArguments,
}

/// Change number type or shard size of a checkpoint, or turn packed layers into floats
#[derive(Debug, Args)]
pub struct Convert {
    /// Checkpoint directory
    source: PathBuf,
    /// Directory to make; the same command resumes a half-written one
    out: PathBuf,
    /// f32, bf16 or f16 [default: as it is]; packed layers stay packed
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Turn packed layers into floats
    #[arg(long)]
    dequantize: bool,
    #[command(flatten)]
    target: TargetArguments,
}

/// Merge adapters (LoRA) in PEFT's form into a checkpoint
#[derive(Debug, Args)]
pub struct Merge {
    /// Checkpoint directory, not quantised where an adapter changes it
    source: PathBuf,
    /// Directories of adapters, which add up
    #[arg(required = true, value_name = "ADAPTER")]
    adapters: Vec<PathBuf>,
    /// Directory to make; the same command resumes a half-written one
    #[arg(required = true)]
    out: PathBuf,
    /// f32, bf16 or f16 [default: as it is]
    #[arg(long)]
    dtype: Option<Dtype>,
    #[command(flatten)]
    target: TargetArguments,
}

impl Init {
    /// Writes the checkpoint.
    ///
    /// # Errors
    /// What stopped it; an interruption is one.
    pub fn run(self, out: &Output) -> Result<bool> {
        let plan = self.plan.is_given().then(|| self.plan.plan());
        let Self { config, seed, out: directory, layers, no_weights, for_training, dtype, .. } = self;
        let TargetArguments { shard_mb, restart } = self.target;
        let shard_bytes = shard_mb * 1_000_000;
        let options =
            init::Options { config, out: directory, seed, layers, dtype, plan, shard_bytes, for_training, restart };
        if no_weights {
            init::init_without_weights(&options)?;
        } else {
            let mut watch = Watch::begin(&options.out)?;
            init::init_until(&options, |progress| watch.show(progress))?;
        }
        say!(out, "written: {}", options.out.display());
        Ok(true)
    }
}

impl Quantize {
    /// Writes the checkpoint and prints the error made.
    ///
    /// # Errors
    /// What stopped it; an interruption is one.
    pub fn run(self, out: &Output) -> Result<bool> {
        let plan = self.plan.plan();
        let prompts = self.comparison()?;
        let Self { source, out: directory, dtype, .. } = self;
        let report_file = self.report.map(|path| ReportFile::new(path, &directory)).transpose()?;
        let TargetArguments { shard_mb, restart } = self.target;
        let shard_bytes = shard_mb * 1_000_000;
        let options = quantize::Options { source, out: directory, plan, dtype, shard_bytes, restart };
        let report = {
            let mut watch = Watch::begin(&options.out)?;
            quantize::quantize(&options, |progress| watch.show(progress))?
        };
        print_report(&report, out);
        report_file.map(|file| file.write(&report)).transpose()?;
        say!(out, "written: {}", options.out.display());
        if let Some(prompts) = prompts {
            let (reference, other, device) = (options.source, options.out, Device::Cpu);
            let comparison = compare::Options { reference, other, prompts, device, dtype: Dtype::F32 };
            print(&compare::compare(&comparison)?, out);
        }
        Ok(true)
    }

    /// The inputs both checkpoints are to be run on, if they are: what is wrong with them is said before hours of work.
    fn comparison(&self) -> Result<Option<Prompts>> {
        let texts = self.prompts.as_deref().map(Prompts::from_file).transpose()?;
        if texts.is_none() && self.golden.is_none() {
            return Ok(None);
        }
        let prompts = Prompts { texts: texts.unwrap_or_default(), golden: self.golden.clone(), ..Prompts::default() };
        prompts.check(&self.source)?;
        Ok(Some(prompts))
    }
}

impl Convert {
    /// Writes the checkpoint.
    ///
    /// # Errors
    /// What stopped it; an interruption is one.
    pub fn run(self, out: &Output) -> Result<bool> {
        let Self { source, out: directory, dtype, dequantize, target: TargetArguments { shard_mb, restart } } = self;
        let (adapters, shard_bytes) = (Vec::new(), shard_mb * 1_000_000);
        converted(&convert::Options { source, adapters, out: directory, dtype, dequantize, shard_bytes, restart }, out)
    }
}

impl Merge {
    /// Writes the merged checkpoint.
    ///
    /// # Errors
    /// What stopped it; an interruption is one.
    pub fn run(self, out: &Output) -> Result<bool> {
        let Self { source, adapters, out: directory, dtype, target: TargetArguments { shard_mb, restart } } = self;
        let (dequantize, shard_bytes) = (false, shard_mb * 1_000_000);
        converted(&convert::Options { source, adapters, out: directory, dtype, dequantize, shard_bytes, restart }, out)
    }
}

fn converted(options: &convert::Options, out: &Output) -> Result<bool> {
    {
        let mut watch = Watch::begin(&options.out)?;
        convert::convert(options, |progress| watch.show(progress))?;
    }
    say!(out, "written: {}", options.out.display());
    Ok(true)
}

impl PlanArguments {
    fn is_given(&self) -> bool {
        let Self { recipe, bits, group, asymmetric, only, ignore } = self;
        let set = recipe.is_some() || bits.is_some() || group.is_some();
        set || *asymmetric || !only.is_empty() || !ignore.is_empty()
    }

    fn plan(&self) -> Plan {
        Plan {
            recipe: self.recipe,
            bits: self.bits,
            group: self.group,
            asymmetric: self.asymmetric,
            only: self.only.clone(),
            ignore: self.ignore.clone(),
        }
    }
}

fn component(name: &str) -> Result<Component> {
    let found = Component::ALL.into_iter().find(|component| component.name().replace(' ', "-") == name);
    let names = || Component::ALL.map(|component| component.name().replace(' ', "-")).join(", ");
    found.ok_or_else(|| Error::Request(format!("part `{name}`: expected one of {}", names())))
}

fn print_report(report: &Report, out: &Output) {
    say!(out, "{:16} {:>8} {:>16} {:>10} {:>10}  worst", "component", "matrices", "weights", "rel. error", "max error");
    for part in &report.components {
        let (worst, of_worst) = &part.worst;
        say!(
            out,
            "{:16} {:>8} {:>16} {:>10.2e} {:>10.2e}  {worst} ({of_worst:.2e})",
            part.component,
            part.tensors,
            part.weights,
            part.relative_rms,
            part.max_abs
        );
    }
}
