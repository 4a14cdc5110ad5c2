//! Text, sound, pictures and video in one message, in any order and number.
//!
//! ```sh
//! cargo run --release --example mixed_chat -- image:cat.png audio:question.wav "answer in one word"
//! ```

use std::process::ExitCode;

use clap::Parser;
use qwen3_omni::{Message, Result};
use qwen3_omni_examples::{Flags, answer, exit, sample};

/// Answer a message of many parts in text and speech
#[derive(Parser)]
struct Arguments {
    /// `audio:FILE`, `image:FILE`, `video:FILE`, or text; a picture and a spoken question about it if none is given
    parts: Vec<String>,
    /// Hear the sound of videos
    #[arg(long)]
    audio_in_video: bool,
    #[command(flatten)]
    flags: Flags,
}

fn add(message: Message, part: &str) -> Message {
    match part.split_once(':') {
        Some(("audio", file)) => message.audio(file),
        Some(("image", file)) => message.image(file),
        Some(("video", file)) => message.video(file),
        _ => message.text(part),
    }
}

fn run(Arguments { parts, audio_in_video, flags }: Arguments) -> Result<()> {
    let question = match parts.is_empty() {
        true => Message::user().image(sample("picture_spoken.png")).audio(sample("picture_spoken_question.wav")),
        false => parts.iter().fold(Message::user(), |message, part| add(message, part)),
    };
    let options = flags.options().audio_in_video(audio_in_video);
    let omni = flags.load()?;
    answer(&omni, &[question], &options, &flags.out)?;
    Ok(())
}

fn main() -> ExitCode {
    exit(run(Arguments::parse()))
}
