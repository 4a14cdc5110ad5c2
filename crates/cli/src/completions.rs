//! Completions for shells.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};
use qwen3_omni::Result;
use weights_tools::commands::Output;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example: qwen3-omni completions bash > ~/.local/share/bash-completion/completions/qwen3-omni")]
pub struct Completions {
    shell: Shell,
}

impl Completions {
    /// Prints them.
    pub fn run(self, out: &Output) -> Result<bool> {
        let mut script = Vec::new();
        generate(self.shell, &mut crate::Arguments::command(), "qwen3-omni", &mut script);
        out.text(String::from_utf8_lossy(&script));
        Ok(true)
    }
}
