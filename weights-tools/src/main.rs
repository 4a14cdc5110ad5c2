//! Inspect, verify, make, convert, quantise and compare Qwen3-Omni checkpoints.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A program owns its terminal.

mod comparing;
mod interrupt;
mod progress;
mod terminal;
mod writing;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use omni_core::{Dtype, Result};
use qwen3_omni::Device;
use qwen3_omni_weights_tools::verify::{CaseReport, Outcome};
use qwen3_omni_weights_tools::{inspect, verify};
use terminal::{Output, note, say};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Report what a checkpoint is, and what is missing or odd about it
    Inspect {
        /// Checkpoint directory
        directory: PathBuf,
        /// Compare with this list of tensors instead of the checkpoint's own config
        #[arg(long, value_enum, default_value = "config")]
        expect: ExpectArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Recompute golden cases of the reference and compare every tensor
    Verify {
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
        engine: Option<EngineArgument>,
        /// f32 or bf16
        #[arg(long, default_value = "f32")]
        dtype: Dtype,
        /// The reference's own errors in bf16 (JSON), which limit ours with --dtype bf16
        #[arg(long)]
        reference_errors: Option<PathBuf>,
        /// Do not fail because of cases that this version cannot run
        #[arg(long)]
        allow_uncovered: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run two checkpoints of one model on the same inputs and report how far their outputs lie apart, part by part
    Compare(comparing::Compare),
    /// Write a random-weight checkpoint in the released layout, quantised if a recipe or bits are given
    Init(writing::Init),
    /// Quantise the linear layers of a checkpoint, in the layout of compressed-tensors
    Quantize(writing::Quantize),
    /// Change number type or shard size of a checkpoint, or turn packed layers into floats
    Convert(writing::Convert),
}

#[derive(Clone, Copy, ValueEnum)]
enum ExpectArgument {
    Config,
    Released,
}

#[derive(Clone, Copy, ValueEnum)]
enum EngineArgument {
    /// Host memory, with this workspace's CPU kernels
    Host,
    /// burn tensors
    Device,
}

impl From<EngineArgument> for verify::Engine {
    fn from(engine: EngineArgument) -> Self {
        match engine {
            EngineArgument::Host => verify::Engine::Host,
            EngineArgument::Device => verify::Engine::Device,
        }
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => return tell(&told),
    };
    let out = Output::default();
    let result = run(arguments.command, &out);
    match result.and_then(|good| out.finish().map(|()| good)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            note(format_args!("error: {error}"));
            ExitCode::from(if interrupt::asked() { interrupt::EXIT_CODE } else { 2 })
        }
    }
}

fn run(command: Command, out: &Output) -> Result<bool> {
    match command {
        Command::Inspect { directory, expect, json } => run_inspect(&directory, expect, json, out),
        Command::Verify { model, golden, only, device, engine, dtype, reference_errors, allow_uncovered, json } => {
            let engine = engine.map(verify::Engine::from);
            let options = verify::Options { model, golden, only, device, engine, dtype, reference_errors };
            run_verify(&options, allow_uncovered, json, out)
        }
        Command::Compare(arguments) => arguments.run(out),
        Command::Init(arguments) => arguments.run(out),
        Command::Quantize(arguments) => arguments.run(out),
        Command::Convert(arguments) => arguments.run(out),
    }
}

/// Prints help, the version, or what is wrong with the arguments.
fn tell(told: &clap::Error) -> ExitCode {
    match told.print() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => ExitCode::from(2),
        _ => ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2)),
    }
}

fn run_inspect(directory: &Path, expect: ExpectArgument, json: bool, out: &Output) -> Result<bool> {
    let expect = match expect {
        ExpectArgument::Config => inspect::Expect::Config,
        ExpectArgument::Released => inspect::Expect::Released,
    };
    let found = inspect::inspect(directory, expect)?;
    if json {
        out.json(&found);
        return Ok(found.odd.is_empty());
    }
    let dtype = found.config_dtype.as_deref().unwrap_or("not said");
    say!(out, "{}: Qwen3-Omni {}, {} shards, number type {dtype}", directory.display(), found.variant, found.shards);
    say!(out, "{:16} {:>8} {:>16} {:>12}  types", "component", "tensors", "parameters", "bytes");
    for part in &found.components {
        let kinds = part.dtypes.iter().chain(&part.packed);
        let types: Vec<String> = kinds.map(|(name, count)| format!("{name} ×{count}")).collect();
        let (tensors, parameters, bytes) = (part.tensors, part.parameters, part.bytes);
        say!(out, "{:16} {tensors:>8} {parameters:>16} {bytes:>12}  {}", part.component, types.join(", "));
    }
    let sums = found.components.iter().fold((0, 0, 0), |s, c| (s.0 + c.tensors, s.1 + c.parameters, s.2 + c.bytes));
    say!(out, "{:16} {:>8} {:>16} {:>12}", "all", sums.0, sums.1, sums.2);
    print_needs(&found.components, out);
    match found.odd.is_empty() {
        true => say!(out, "nothing missing, nothing odd"),
        false => found.odd.iter().for_each(|line| say!(out, "{line}")),
    }
    Ok(found.odd.is_empty())
}

/// Prints what each part takes when it is loaded.
fn print_needs(components: &[inspect::ComponentSummary], out: &Output) {
    say!(out, "\n{:16} {:>14} {:>14} {:>14}", "bytes loaded", "CPU, held", "CPU, mapped", "other device");
    let mut sums = [0; 3];
    for part in components {
        let needs = [part.cpu_held, part.cpu_mapped, part.device_held];
        sums.iter_mut().zip(needs).for_each(|(sum, need)| *sum += need);
        say!(out, "{:16} {:>14} {:>14} {:>14}", part.component, needs[0], needs[1], needs[2]);
    }
    say!(out, "{:16} {:>14} {:>14} {:>14}\n", "all", sums[0], sums[1], sums[2]);
}

fn run_verify(options: &verify::Options, allow_uncovered: bool, json: bool, out: &Output) -> Result<bool> {
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
