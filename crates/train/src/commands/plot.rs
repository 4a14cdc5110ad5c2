use std::path::PathBuf;

use clap::Args;
use qwen3_omni_train::Result;
use qwen3_omni_train::trainer::{Log, write_plot};

/// Draw a run's log as an SVG picture: loss, learning rate and gradient norm.
#[derive(Args)]
#[command(after_help = "Example: qwen3-omni-train plot run/log.jsonl loss.svg")]
pub(crate) struct Plot {
    /// The run's log.
    log: PathBuf,
    /// The picture to write.
    out: PathBuf,
}

impl Plot {
    pub(crate) fn run(&self) -> Result<bool> {
        write_plot(&self.out, &Log::read(&self.log)?)?;
        Ok(true)
    }
}
