//! Recordings in words.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qwen3_omni::{AudioInput, Message, Result, TRANSCRIBE};
use weights_tools::commands::Output;

use crate::answer::{AnswerArguments, answer};
use crate::ask::tell;
use crate::model::ModelArguments;
use crate::speech::SpeechArguments;

/// Put a recording into words: what is said in it, or with --caption what is heard
#[derive(Debug, Args)]
#[command(
    after_help = "Example: qwen3-omni listen meeting.m4a --model /models/Qwen3-Omni-30B-A3B-Instruct > meeting.txt\n\n\
    nano was not taught to transcribe: it answers the recording."
)]
pub struct Listen {
    /// A recording, or a video with sound
    file: PathBuf,
    /// Describe what is heard: the recording alone, as the Captioner checkpoint takes it
    #[arg(long, conflicts_with = "prompt")]
    caption: bool,
    /// Ask this of the recording [default: to transcribe it]
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Print JSON: text, reason of its end, counts, times in seconds
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    answer: AnswerArguments,
    #[command(flatten)]
    model: ModelArguments,
}

impl Listen {
    /// Transcribes or describes.
    pub fn run(self, out: &Output) -> Result<ExitCode> {
        let mut question = Message::user().audio(AudioInput::from(&self.file));
        let usual = || (!self.caption && !self.model.is_nano()).then(|| TRANSCRIBE.to_owned());
        if let Some(prompt) = self.prompt.clone().or_else(usual) {
            question = question.text(prompt);
        }
        let mut chat = self.answer.opening();
        chat.push(question);
        let omni = self.model.load(false)?;
        let silent = SpeechArguments::default();
        let options = self.answer.options(&silent, self.model.is_nano());
        let answered = answer(&omni, &chat, &options, &silent, (!self.json).then_some(out))?;
        Ok(tell(&answered, self.json, self.answer.is_verbose(), out))
    }
}
