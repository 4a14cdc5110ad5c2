//! Sound in, text and speech out: one or more recordings, and a typed question if you like.
//!
//! ```sh
//! cargo run --release --example audio_chat -- question.mp3
//! cargo run --release --example audio_chat -- meeting.m4a --text "what was decided"
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use qwen3_omni::{Message, Result};
use qwen3_omni_examples::{Flags, answer, exit, sample};

/// Answer recordings in text and speech
#[derive(Parser)]
struct Arguments {
    /// WAV, AIFF, AU, CAF, FLAC, MP1 to MP3, OGG, WebM, Matroska or M4A; a spoken "what is five plus seven" if none is given
    files: Vec<PathBuf>,
    /// A question to go with the sound
    #[arg(long)]
    text: Option<String>,
    #[command(flatten)]
    flags: Flags,
}

fn run(Arguments { files, text, flags }: Arguments) -> Result<()> {
    let files = if files.is_empty() { vec![sample("spoken_sum_question.wav")] } else { files };
    let question = files.into_iter().fold(Message::user(), |message, file| message.audio(file));
    let question = text.into_iter().fold(question, |message, text| message.text(text));
    let omni = flags.load()?;
    answer(&omni, &[question], &flags.options(), &flags.out)?;
    Ok(())
}

fn main() -> ExitCode {
    exit(run(Arguments::parse()))
}
