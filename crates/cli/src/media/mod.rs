//! What the model would read of files, without a model.

mod counts;
mod report;

use std::path::PathBuf;

use clap::Args;
use qwen3_omni::Result;
use weights_tools::commands::Output;

use counts::Counts;
use report::Entry;

/// Report what the model would read of files: length and loudness of sound, sizes, frames, tokens
///
/// Files are read to their end, as for a question. Without a model, sizes are those of the released one.
#[derive(Debug, Args)]
#[command(after_help = "Example: qwen3-omni media holiday.mp4 question.ogg cat.heic --json")]
pub struct Media {
    /// Recordings, pictures and videos
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Checkpoint directory whose config says how files are read [default: that of the released model]
    #[arg(long, value_name = "DIR", env = "QWEN3_OMNI_MODEL", hide_env_values = true)]
    model: Option<PathBuf>,
    /// Print JSON: a list with an object for each file
    #[arg(long)]
    json: bool,
}

impl Media {
    /// Reports, and returns whether every file could be read.
    pub fn run(self, out: &Output) -> Result<bool> {
        let counts = match &self.model {
            Some(directory) => Counts::of_model(directory)?,
            None => Counts::released()?,
        };
        let mut entries = Vec::new();
        for file in &self.files {
            let entry = Entry::new(file, counts.read(file));
            if !self.json {
                out.line(&entry);
            }
            entries.push(entry);
        }
        if self.json {
            out.json(&entries);
        }
        Ok(!entries.iter().any(Entry::is_error))
    }
}
