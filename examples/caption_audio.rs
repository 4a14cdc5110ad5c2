//! Describes in words what is heard: one recording alone, text out. This is what the Captioner checkpoint was made for; the others
//! answer the sound instead.
//!
//! ```sh
//! cargo run --release --example caption_audio -- street.flac --model /models/Qwen3-Omni-30B-A3B-Captioner
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use qwen3_omni::{Message, Result};
use qwen3_omni_examples::{Flags, answer, exit, sample};

/// Put a recording into words
#[derive(Parser)]
struct Arguments {
    /// WAV, AIFF, AU, CAF, FLAC, MP1 to MP3, OGG, WebM, Matroska or M4A; a spoken greeting if none is given
    file: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

fn run(Arguments { file, mut flags }: Arguments) -> Result<()> {
    flags.text_only = true;
    let sound = Message::user().audio(file.unwrap_or_else(|| sample("spoken_hello_question.wav")));
    let omni = flags.load()?;
    answer(&omni, &[sound], &flags.options(), &flags.out)?;
    Ok(())
}

fn main() -> ExitCode {
    exit(run(Arguments::parse()))
}
