//! Times the parts of the model at the released sizes, with random weights made in memory.
//!
//! Prints one JSON line per measurement: `part`, `case`, `per` (what one unit is), `median_ms`, `min_ms`, `runs`,
//! `dtype`, `device`, `params_m`. The cases are those of the reference's benchmark script, so that lines can be compared.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A program owns its terminal.

mod parts;
mod timing;

use std::process::ExitCode;

use checkpoint::Scheme;
use clap::Parser;
use omni_core::{Dtype, Result};
use qwen3_omni::Device;

/// Time the parts of the model at the released sizes
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// f32, bf16, f16, int8 (groups of 128) or int4 (groups of 32); beside integers everything is bf16
    #[arg(long, default_value = "f32", value_parser = stored)]
    dtype: Stored,
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
    #[arg(long, num_args = 1.., default_values = ["memory", "aut", "vision", "thinker", "talker", "mtp", "code2wav"])]
    only: Vec<String>,
}

/// What the weights are stored in.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) scheme: Option<Scheme>,
}

impl Stored {
    /// Bytes of one weight, its share of the scales included.
    pub(crate) fn bytes_per_weight(&self) -> f64 {
        match &self.scheme {
            Some(scheme) => f64::from(scheme.bits) / 8.0 + 2.0 / scheme.group.map_or(f64::INFINITY, |n| n as f64),
            None => self.dtype.size() as f64,
        }
    }
}

fn stored(name: &str) -> std::result::Result<Stored, String> {
    let packed = |bits, group| Some(Scheme { bits, group: Some(group), symmetric: true });
    let (dtype, scheme) = match name {
        "int8" => (Dtype::Bf16, packed(8, 128)),
        "int4" => (Dtype::Bf16, packed(4, 32)),
        other => (other.parse().map_err(|_| "expected f32, bf16, f16, int8 or int4".to_owned())?, None),
    };
    Ok(Stored { name: name.to_owned(), dtype, scheme })
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
