//! Times the parts of the model at the released sizes, with random weights made in memory.
//!
//! Prints one JSON line per measurement: `part`, `case`, `per` (what one unit is), `median_ms`, `min_ms`, `runs`,
//! `dtype`, `device`, `params_m`. The cases are those of the reference's benchmark script, so that lines can be compared.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A program owns its terminal.

mod parts;
mod timing;

use std::process::ExitCode;

use clap::Parser;
use omni_core::{Dtype, Result};
use qwen3_omni::Device;

/// Time the parts of the model at the released sizes
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// f32, bf16 or f16
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// Threads of the CPU; 0 for all
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Runs of each measurement
    #[arg(long, default_value = "10", value_parser = positive)]
    runs: usize,
    /// Stop a measurement after this long (3 runs at least)
    #[arg(long, default_value_t = 20.0)]
    budget_s: f64,
    /// Layers of the thinker that are built (the released model has 48)
    #[arg(long, default_value = "4", value_parser = positive)]
    thinker_layers: usize,
    /// Prefill length, and cache length before decode
    #[arg(long, default_value = "256", value_parser = positive)]
    prompt: usize,
    /// Parts to time
    #[arg(long, num_args = 1.., default_values = ["aut", "vision", "thinker", "talker", "mtp", "code2wav"])]
    only: Vec<String>,
}

fn positive(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number of at least 1".to_owned())
}

fn run(arguments: &Arguments) -> Result<()> {
    // Before the pool's first use, so it cannot fail.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build_global();
    let bench = parts::Bench::new(arguments)?;
    arguments.only.iter().try_for_each(|part| bench.run(part))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
