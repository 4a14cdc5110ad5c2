//! Correctness and speed on a device, one JSON object a line: the program that `benches/gpu/run.sh` runs on a machine with a GPU.
//!
//! Exits with 0 if everything passed, 1 if something failed, 2 if it could not run; then the last line says why.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A program owns its terminal.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use omni_core::{Error, Result};
use qwen3_omni::Device;
use qwen3_omni_benches::check::{self, first_line, guarded, latency, machine, nano, parity, report};
use qwen3_omni_benches::parts;
use serde_json::json;

/// Check correctness and speed on a device
#[derive(Parser)]
struct Command {
    #[command(subcommand)]
    check: Check,
}

#[derive(Subcommand)]
enum Check {
    /// The machine and its cards
    Machine {
        /// What was built
        #[arg(long, default_value = "unknown")]
        commit: String,
    },
    /// Open a device and compute a small sum on it
    Device {
        /// cpu, wgpu, cuda or cuda:N
        #[arg(long)]
        device: Device,
    },
    /// Every golden case of the reference, in f32
    Parity(parity::Arguments),
    /// Nano's stored conversations: equal texts and codes
    Nano(nano::Arguments),
    /// The parts of the model, with random weights
    Parts(Box<parts::Arguments>),
    /// The whole model, with random weights: first text, first sound, real-time factor, memory
    Latency(Box<latency::Arguments>),
    /// From the lines of all steps to a table and a JSON document
    Report {
        /// The lines
        lines: PathBuf,
        /// Where the document is written
        #[arg(long)]
        json: PathBuf,
    },
}

fn main() -> ExitCode {
    // A failing device panics inside the framework; the finding says so, here is where.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, |place| format!(" ({}:{})", place.file(), place.line()));
        let text = panic.payload_as_str().unwrap_or("no message");
        eprintln!("panicked: {text}{place}");
    }));
    match guarded(|| run(Command::parse().check)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            println!("{}", json!({"kind": "not_run", "reason": first_line(&error.to_string())}));
            ExitCode::from(2)
        }
    }
}

fn run(check: Check) -> Result<bool> {
    let emit = |line| println!("{line}");
    match check {
        Check::Machine { commit } => emit(machine::machine(&commit)),
        Check::Device { device } => emit(machine::device(&device)?),
        Check::Parity(arguments) => return parity::run(&arguments, &emit),
        Check::Nano(arguments) => return nano::run(&arguments, &emit),
        Check::Parts(arguments) => return check::parts::run(&arguments, &emit),
        Check::Latency(arguments) => return latency::run(&arguments, &emit),
        Check::Report { lines, json } => {
            let text = std::fs::read_to_string(&lines).map_err(|source| Error::io(&lines, source))?;
            let findings = report::read(&text);
            let document = format!("{:#}\n", report::document(&findings)?);
            std::fs::write(&json, document).map_err(|source| Error::io(&json, source))?;
            println!("{}", report::markdown(&findings));
        }
    }
    Ok(true)
}
