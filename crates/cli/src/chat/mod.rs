//! A conversation on the terminal.

mod conversation;
mod input;
mod request;
#[cfg(feature = "live")]
mod voice;

use std::process::ExitCode;

use clap::Args;
use qwen3_omni::Result;
use weights_tools::commands::{Output, interrupt, note};

use crate::spoken::SpokenArguments;
use conversation::Conversation;
use input::{Input, Line};
use request::{HELP, Request};

/// Talk over several turns, with files; each turn computes only what is new
///
/// Lines are edited and remembered. Without a terminal, each line of standard input is a turn.
#[derive(Debug, Args)]
#[command(after_help = "Example: qwen3-omni chat --system \"Answer in one sentence.\" --out reply.wav\n\n\
    Speech goes to reply-1.wav, reply-2.wav and so on. /help in a conversation lists its commands.")]
pub struct Chat {
    /// Speak instead of typing, through microphone and speakers; speaking interrupts an answer
    #[cfg(feature = "live")]
    #[arg(long, conflicts_with_all = ["out", "play"])]
    voice: bool,
    #[command(flatten)]
    spoken: SpokenArguments,
}

impl Chat {
    /// Talks until the end of the input.
    pub fn run(self, out: &Output) -> Result<ExitCode> {
        #[cfg(feature = "live")]
        if self.voice {
            return self.talk(out);
        }
        let spoken = self.spoken;
        spoken.speech.check()?;
        let mut input = Input::open();
        let omni = spoken.load()?;
        if input.is_watched() {
            note(HELP);
        }
        if spoken.model.is_nano() {
            note("nano was not taught conversations of several turns: /reset helps it");
        }
        let mut conversation = Conversation::new(&omni, &spoken);
        let mut is_leaving = false;
        loop {
            match input.next(conversation.files())? {
                Line::End => return Ok(ExitCode::SUCCESS),
                Line::Interrupted if is_leaving => return Ok(ExitCode::from(interrupt::EXIT_CODE)),
                Line::Interrupted => {
                    note("Ctrl-C again leaves, and so does Ctrl-D");
                    is_leaving = true;
                    continue;
                }
                Line::Text(line) => match Request::of(&line) {
                    Request::Quit => return Ok(ExitCode::SUCCESS),
                    request => conversation.serve(request, out),
                },
            }
            is_leaving = false;
        }
    }

    #[cfg(feature = "live")]
    fn talk(self, out: &Output) -> Result<ExitCode> {
        let omni = self.spoken.model.load(true)?;
        let options = self.spoken.options().speech(None);
        voice::talk(&omni, self.spoken.opening(), options, out)?;
        Ok(ExitCode::SUCCESS)
    }
}
