//! Times the parts of the model at full size, with random weights made in memory.
//!
//! Prints one JSON line per measurement: `part`, `case`, `per` (what one unit is), `median_ms`, `min_ms`, `runs`,
//! `dtype`, `device`, `params_m`, on GPUs `launches`. The cases are those of the reference's benchmark script, so that lines can
//! be compared.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A program owns its terminal.

use std::process::ExitCode;

use clap::Parser;
use qwen3_omni_benches::parts::{Arguments, Bench};

/// Time the parts of the model at full size
#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    let Command { arguments } = Command::parse();
    let print = |line| println!("{line}");
    match Bench::new(&arguments, &print).and_then(|bench| bench.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
