//! The turns of a conversation.

use std::path::{Path, PathBuf};

use qwen3_omni::{GenerateOptions, Message, Omni, Part, Result, Role, Session};
use weights_tools::commands::{Output, note};

use super::request::{HELP, Request};
use crate::answer::{Answered, stream};
use crate::parts;
use crate::spoken::SpokenArguments;

/// A session, and the files that wait for the next message.
pub struct Conversation<'a> {
    omni: &'a Omni,
    session: Session,
    /// Messages before the first turn.
    opening: usize,
    options: GenerateOptions,
    spoken: &'a SpokenArguments,
    files: Vec<Part>,
    /// Number of the next answer.
    turn: usize,
}

impl<'a> Conversation<'a> {
    pub fn new(omni: &'a Omni, spoken: &'a SpokenArguments) -> Self {
        let (mut session, opening) = (omni.session(), spoken.opening());
        let length = opening.len();
        opening.into_iter().for_each(|message| session.push(message));
        Self { omni, session, opening: length, options: spoken.options(), spoken, files: Vec::new(), turn: 1 }
    }

    /// Number of files that wait for the next message.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Does what a line asks for. What goes wrong is told and does not end the conversation.
    pub fn serve(&mut self, request: Request<'_>, out: &Output) {
        match request {
            Request::Say("") if self.files.is_empty() => {}
            Request::Say(text) => self.ask(text, out),
            Request::Add(file) => match parts::file(Path::new(file), "the added file") {
                Ok(part) => {
                    note(format_args!("added as {}", part.kind().name()));
                    self.files.push(part);
                }
                Err(error) => note(format_args!("error: {error}")),
            },
            Request::Drop => self.files.clear(),
            Request::Undo => self.undo(),
            Request::Reset => {
                self.session.truncate(self.opening);
                self.files.clear();
            }
            Request::Help | Request::Quit => note(HELP),
            Request::Unknown(line) => note(format_args!("`{line}` is no command; /help lists them")),
        }
    }

    fn undo(&mut self) {
        let asked = self.session.messages().iter().rposition(|message| message.role() == Role::User);
        match asked {
            Some(asked) => self.session.truncate(asked),
            None => note("there is nothing to undo"),
        }
    }

    fn ask(&mut self, text: &str, out: &Output) {
        let before = self.session.messages().len();
        let message = self.files.iter().cloned().fold(Message::user(), Message::part);
        self.session.push(if text.is_empty() { message } else { message.text(text) });
        match self.answer(out) {
            Ok(answered) => {
                answered.tell(self.spoken.answer.is_verbose());
                self.files.clear();
                self.turn += 1;
                // An empty answer cannot stand in a conversation.
                if answered.reply.text.is_empty() {
                    self.session.truncate(before);
                }
            }
            Err(error) => {
                note(format_args!("error: {error}"));
                self.session.truncate(before);
            }
        }
    }

    fn answer(&mut self, out: &Output) -> Result<Answered> {
        let speech = &self.spoken.speech;
        let file = speech.out.as_deref().map(|file| numbered(file, self.turn));
        let speech = speech.open(self.omni, file.as_deref())?;
        let answer = self.session.answer(&self.options)?;
        let canceller = answer.canceller();
        stream(answer, &canceller, speech, Some(out))
    }
}

/// `reply.wav` → `reply-1.wav`.
fn numbered(file: &Path, turn: usize) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let extension = file.extension().map_or("wav".into(), |extension| extension.to_string_lossy());
    file.with_file_name(format!("{stem}-{turn}.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_a_file_of_its_own() {
        assert_eq!(numbered(Path::new("a/reply.wav"), 2), Path::new("a/reply-2.wav"));
        assert_eq!(numbered(Path::new("reply"), 1), Path::new("reply-1.wav"));
    }
}
