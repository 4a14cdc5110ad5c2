//! Golden cases of the reference, on a device.

use std::path::PathBuf;

use clap::Args;
use omni_core::{Dtype, Result};
use qwen3_omni::Device;
use serde_json::{Value, json};
use weights_tools::verify::{self, CaseReport, Options, Outcome};

use super::first_line;

/// What is compared, and where.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long)]
    pub device: Device,
    /// Checkpoint that the golden cases belong to
    #[arg(long)]
    pub model: PathBuf,
    /// Directory of golden cases
    #[arg(long)]
    pub golden: PathBuf,
    /// Only cases whose names start with one of these
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Number type of the computation
    #[arg(long, default_value = "f32")]
    pub dtype: Dtype,
    /// The reference's own errors in that number type; needed for all but f32
    #[arg(long)]
    pub reference_errors: Option<PathBuf>,
}

/// Runs every case; returns whether none failed.
///
/// # Errors
/// If the device or a directory cannot be opened.
pub fn run(arguments: &Arguments, emit: &dyn Fn(Value)) -> Result<bool> {
    let Arguments { device, model, golden, only, dtype, reference_errors } = arguments.clone();
    let name = device.to_string();
    let options = Options { model, golden, only, device, engine: None, dtype, reference_errors };
    let reports = verify::run(&options, |report| emit(line(&name, dtype, report)))?;
    Ok(reports.iter().all(|report| report.passes(false)))
}

fn line(device: &str, dtype: Dtype, report: &CaseReport) -> Value {
    let (verdict, reason) = match &report.outcome {
        Outcome::Passed => ("passed", String::new()),
        Outcome::Failed(reason) => ("failed", first_line(reason)),
        Outcome::NotCovered(reason) => ("not covered", first_line(reason)),
        Outcome::Absent(reason) => ("absent", first_line(reason)),
    };
    let bad = report.checks.iter().filter(|check| !check.passed).map(|check| {
        json!({"tensor": check.tensor, "max_abs_error": check.max_abs_error, "tolerance": check.tolerance,
               "note": check.note})
    });
    // How near the worst tensor came to its tolerance.
    let share =
        |check: &verify::Check| check.max_abs_error.filter(|_| check.tolerance > 0.0).map(|e| e / check.tolerance);
    let worst = report.checks.iter().filter_map(share).fold(0.0, f64::max);
    json!({
        "kind": "case", "device": device, "dtype": dtype.to_string(), "case": report.case, "verdict": verdict, "reason": reason,
        "checks": report.checks.len(), "worst_share_of_tolerance": worst, "failed": bad.collect::<Vec<_>>(),
    })
}
