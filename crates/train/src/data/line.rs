use std::path::PathBuf;

use qwen3_omni::{GenerateOptions, Message, Part, Role};
use serde_json::{Map, Value};

use super::entries::{MediaLists, check_path};
use super::fields::Fields;
use super::location::Location;
use super::messages::{Turns, last_answer};
use super::transcript::Transcript;
use crate::{Error, Result};

/// A spoken answer: the target of the talker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpeechTarget {
    /// A file of sound.
    Wave(PathBuf),
    /// A safetensors file with the tensor `codes`, `[F, Q]`.
    Codes(PathBuf),
}

/// One line of training data.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Line {
    /// The conversation, its answers included.
    pub messages: Vec<Message>,
    /// Whether each assistant message is learned, in order.
    pub learns: Vec<bool>,
    /// Functions the model may call, as JSON schemas.
    pub tools: Vec<Value>,
    /// Whether the model hears the sound of videos that have any.
    pub audio_in_video: bool,
    /// A worse answer in place of the last one.
    pub rejected: Option<String>,
    /// The last answer, spoken.
    pub speech: Option<SpeechTarget>,
    /// A worse way to speak the last answer.
    pub rejected_speech: Option<SpeechTarget>,
    /// The voice of the spoken answers.
    pub speaker: Option<String>,
    /// Keys without a meaning here: reward functions take them. Of a line `{"audio": …, "text": …}` also `task` and `language`.
    pub extra: Map<String, Value>,
    /// The place of the line.
    pub location: Location,
}

impl Line {
    /// Names the line in an error of its conversation; an error of the device belongs to no line.
    pub(crate) fn blame(&self, error: Error) -> Error {
        let Location { path, line } = &self.location;
        match error {
            Error::Model(source) if !matches!(source, omni_core::Error::Device(_)) => {
                Error::Conversation { path: path.to_path_buf(), line: *line, source }
            }
            Error::Batch(reason) => self.location.refuse(reason),
            other => other,
        }
    }

    /// Understands one line: an object with `messages`, or `{"audio": …, "text": …}` for a recording and its transcript. No file is
    /// opened.
    ///
    /// # Errors
    /// [`Error::Data`] naming file, line and what was expected.
    pub fn parse(json: &str, location: &Location) -> Result<Self> {
        let mut fields = Fields::parse(json, location)?;
        match fields.take("messages") {
            Some(messages) => Self::conversation(&messages, fields),
            None => Self::recording(fields),
        }
    }

    fn conversation(messages: &Value, mut fields: Fields) -> Result<Self> {
        let location = fields.location;
        let mut lists = MediaLists::take(&mut fields)?;
        let turns = Turns::read(messages, &mut lists, location)?;
        lists.finish()?;
        let line = Self {
            rejected: rejected(&mut fields)?,
            tools: fields.objects("tools")?,
            audio_in_video: fields.flag("use_audio_in_video")?,
            speech: speech(&mut fields, "speech", "codes")?,
            rejected_speech: speech(&mut fields, "rejected_speech", "rejected_codes")?,
            speaker: fields.text("speaker")?,
            messages: turns.messages,
            learns: turns.learns,
            extra: fields.rest(),
            location: location.clone(),
        };
        line.checked()
    }

    fn recording(fields: Fields) -> Result<Self> {
        let location = fields.location.clone();
        let Transcript { question, text, extra } = Transcript::read(fields)?;
        Ok(Self {
            messages: vec![question, Message::assistant(text)],
            learns: vec![true],
            tools: Vec::new(),
            audio_in_video: false,
            rejected: None,
            speech: None,
            rejected_speech: None,
            speaker: None,
            extra,
            location,
        })
    }

    /// Checks that what belongs to the last answer has one.
    fn checked(self) -> Result<Self> {
        let of_answer = [self.rejected.is_some(), self.speech.is_some(), self.rejected_speech.is_some()];
        let named = ["a rejected answer", "`speech` or `codes`", "`rejected_speech` or `rejected_codes`"];
        let lonely = named.iter().zip(of_answer).find(|(_, given)| *given && !self.ends_with_answer());
        match lonely {
            None if self.rejected_speech.is_some() && self.speech.is_none() => {
                Err(self.location.refuse("a rejected spoken answer without `speech` or `codes`"))
            }
            Some((name, _)) => Err(self.location.refuse(format!("{name} without an assistant message at the end"))),
            None => Ok(self),
        }
    }

    fn ends_with_answer(&self) -> bool {
        self.messages.last().is_some_and(|last| last.role() == Role::Assistant)
    }

    /// The conversation without its last answer: what a model is to answer.
    pub fn prompt(&self) -> &[Message] {
        let end = self.messages.len() - usize::from(self.ends_with_answer());
        &self.messages[..end]
    }

    /// `others` with the line's tools and whether the sound of its videos is heard.
    pub fn answer_options(&self, others: &GenerateOptions) -> GenerateOptions {
        let mut options = others.clone();
        options.tools.extend(self.tools.iter().cloned());
        options.audio_in_video |= self.audio_in_video;
        options
    }

    /// Text for pre-training: of a lone assistant message that is only text and is not spoken.
    pub fn document(&self) -> Option<String> {
        let [message] = self.messages.as_slice() else { return None };
        let text =
            message.parts().iter().map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None });
        let text: Option<String> = text.collect();
        let is_plain = self.tools.is_empty() && message.tool_calls().is_empty() && self.speech.is_none();
        text.filter(|_| self.ends_with_answer() && is_plain)
    }

    /// The line with another answer at its end, which is learned.
    #[must_use]
    pub fn with_answer(&self, text: impl Into<String>) -> Self {
        let mut line = Self { messages: self.prompt().to_vec(), ..self.clone() };
        line.learns.truncate(line.messages.iter().filter(|message| message.role() == Role::Assistant).count());
        line.messages.push(Message::assistant(text));
        line.learns.push(true);
        line
    }
}

fn rejected(fields: &mut Fields) -> Result<Option<String>> {
    let (text, messages) = (fields.text("rejected_response")?, fields.take("rejected_messages"));
    match (text, messages) {
        (Some(_), Some(_)) => Err(fields.both("rejected_response", "rejected_messages")),
        (text, None) => Ok(text),
        (None, Some(messages)) => last_answer(&messages, fields.location).map(Some),
    }
}

pub(super) fn speech(fields: &mut Fields, wave: &str, codes: &str) -> Result<Option<SpeechTarget>> {
    let path = |text: Option<String>| text.map(|text| check_path(&text, fields.location)).transpose();
    match (path(fields.text(wave)?)?, path(fields.text(codes)?)?) {
        (Some(_), Some(_)) => Err(fields.both(wave, codes)),
        (wave, codes) => Ok(wave.map(SpeechTarget::Wave).or(codes.map(SpeechTarget::Codes))),
    }
}
