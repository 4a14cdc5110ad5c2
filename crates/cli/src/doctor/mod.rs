//! What this machine has for the model.

mod machine;
mod report;

use clap::Args;
use qwen3_omni::Result;
use weights_tools::commands::Output;

use report::Report;

/// Report devices, memory, instruction sets and ffmpeg, and which forms of the released model would fit
#[derive(Debug, Args)]
#[command(after_help = "Example: qwen3-omni doctor --json")]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Reports.
    pub fn run(self, out: &Output) -> Result<bool> {
        let report = Report::new()?;
        match self.json {
            true => out.json(&report),
            false => out.line(&report),
        }
        Ok(true)
    }
}
