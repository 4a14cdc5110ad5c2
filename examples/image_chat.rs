//! Pictures and a question in, text and speech out.
//!
//! ```sh
//! cargo run --release --example image_chat -- photo.jpg --text "what do you see"
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use qwen3_omni::{Message, Result};
use qwen3_omni_examples::{Flags, answer, exit, sample};

/// Answer a question about pictures in text and speech
#[derive(Parser)]
struct Arguments {
    /// PNG, JPEG, WebP, TIFF, BMP or GIF, or HEIC or AVIF with ffmpeg; a picture of two coloured shapes if none is given
    files: Vec<PathBuf>,
    /// The question
    #[arg(long, default_value = "what do you see")]
    text: String,
    #[command(flatten)]
    flags: Flags,
}

fn run(Arguments { files, text, flags }: Arguments) -> Result<()> {
    let files = if files.is_empty() { vec![sample("picture_two.png")] } else { files };
    let question = files.into_iter().fold(Message::user(), |message, file| message.image(file)).text(text);
    let omni = flags.load()?;
    answer(&omni, &[question], &flags.options(), &flags.out)?;
    Ok(())
}

fn main() -> ExitCode {
    exit(run(Arguments::parse()))
}
