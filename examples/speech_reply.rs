//! Text in, text and speech out: one question, its written answer as it is made, and its spoken answer as a WAV file.
//!
//! ```sh
//! cargo run --release --example speech_reply -- "what is seven plus five"
//! ```

use std::process::ExitCode;

use clap::Parser;
use qwen3_omni::{Message, Result};
use qwen3_omni_examples::{Flags, answer, exit};

/// Answer one question in text and speech
#[derive(Parser)]
struct Arguments {
    /// The question
    question: String,
    #[command(flatten)]
    flags: Flags,
}

fn run(Arguments { question, flags }: &Arguments) -> Result<()> {
    let omni = flags.load()?;
    answer(&omni, &[Message::user().text(question)], &flags.options(), &flags.out)?;
    Ok(())
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}
