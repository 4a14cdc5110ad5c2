//! One question.

use std::process::ExitCode;

use clap::Args;
use qwen3_omni::Result;
use weights_tools::commands::{Output, interrupt};

use crate::answer::{Answered, answer};
use crate::parts::Parts;
use crate::spoken::SpokenArguments;

/// Ask one question: text and files in any order; the answer goes to standard output, spoken to a file
#[derive(Debug, Args)]
#[command(after_help = "Example: qwen3-omni ask cat.png question.mp3 \"answer in one word\" --out reply.wav")]
pub struct Ask {
    #[command(flatten)]
    parts: Parts,
    /// Print JSON: text, reason of its end, speech, counts, times in seconds
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    spoken: SpokenArguments,
}

impl Ask {
    /// Answers.
    pub fn run(self, out: &Output) -> Result<ExitCode> {
        let Self { parts, json, spoken } = self;
        spoken.speech.check()?;
        let mut chat = spoken.opening();
        chat.push(parts.message()?);
        let omni = spoken.load()?;
        let answered = answer(&omni, &chat, &spoken.options(), &spoken.speech, (!json).then_some(out))?;
        Ok(tell(&answered, json, spoken.answer.is_verbose(), out))
    }
}

/// Tells what is told behind an answer's text; an interrupted program exits as one.
pub fn tell(answered: &Answered, json: bool, is_verbose: bool, out: &Output) -> ExitCode {
    match json {
        true => out.json(&answered.to_json()),
        false => answered.tell(is_verbose),
    }
    if answered.is_interrupted { ExitCode::from(interrupt::EXIT_CODE) } else { ExitCode::SUCCESS }
}
