//! What clients of a session that reads aloud send, in the events of vLLM-Omni.

use std::sync::Arc;

#[cfg(any(test, fuzzing))]
use super::sentences::{Sentences, pieces};
use super::speech::{check_speed, response_format};
use crate::app::App;
use crate::body;
use crate::chat::voice;
use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, brief};
use crate::sound::Format;

/// Fields that ask for a voice made from a recording.
const CLONING: [&str; 3] = ["ref_audio", "ref_text", "speaker_embedding"];
/// Bytes of a task beside its text.
const TASK: usize = 128;

/// How the text that follows is read.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) voice: Option<String>,
    pub(super) format: Format,
    /// Sends sound as it is made, else each sentence as one file.
    pub(super) as_made: bool,
    pub(super) by_clauses: bool,
}

impl Settings {
    fn read(app: &App, fields: &Fields) -> ApiResult<Self> {
        app.check_model(fields.string("model")?)?;
        fields.check(&["instructions", "language"], &[], &[])?;
        check_speed(fields)?;
        fields.one_of("task_type", &[("CustomVoice", ())])?;
        if let Some(field) = CLONING.iter().find(|field| fields.get(field).is_some()) {
            return Err(ApiError::unsupported(*field, "only the voices of the model are spoken with"));
        }
        let as_made = fields.flag("stream_audio")?.unwrap_or(false);
        let usual = if as_made { Format::Pcm } else { Format::Wav };
        let format = response_format(fields)?.unwrap_or(usual);
        // A form that this build does not write is refused before there is text.
        drop(format.encoder(app.omni.sample_rate(), "response_format")?);
        if as_made && format.needs_length() {
            return Err(ApiError::unsupported("response_format", "the file says how long it is, expected pcm"));
        }
        let by_clauses = fields.one_of("split_granularity", &[("sentence", false), ("clause", true)])?.unwrap_or(false);
        Ok(Self { voice: voice(app, fields)?, format, as_made, by_clauses })
    }
}

/// An event of a client.
pub(super) enum ClientEvent {
    Config(Settings),
    Text(String),
    Done,
}

impl ClientEvent {
    /// Reads an event. This takes a while for a large one.
    ///
    /// # Errors
    /// 400 for what is none.
    pub(super) fn read(app: &App, event: &str) -> ApiResult<Self> {
        let event = body::parse(event.as_bytes())?;
        let fields = Fields::of_request(&event)?;
        let kind = fields.string("type")?;
        match fields.required("type", kind)? {
            "session.config" => Ok(Self::Config(Settings::read(app, &fields)?)),
            "input.text" => {
                let text = fields.string("text")?;
                Ok(Self::Text(fields.required("text", text)?.to_owned()))
            }
            "input.done" => Ok(Self::Done),
            other => {
                let message = format!("`{}`, expected session.config, input.text or input.done", brief(other));
                Err(ApiError::invalid("type", message))
            }
        }
    }
}

/// What events ask for.
pub(super) enum Task {
    /// Reads more text.
    Read(String, Arc<Settings>),
    /// Reads the rest and ends the session.
    Finish,
}

impl Task {
    /// Bytes that it holds, about.
    pub(super) fn bytes(&self) -> usize {
        let text = match self {
            Self::Read(text, _) => text.len(),
            Self::Finish => 0,
        };
        text + TASK
    }
}

/// Makes tasks of events.
#[derive(Default)]
pub(super) struct Tasks {
    settings: Option<Arc<Settings>>,
}

impl Tasks {
    /// What an event asks for, if it is more than to keep settings.
    ///
    /// # Errors
    /// 400 for text without settings.
    pub(super) fn of(&mut self, event: ClientEvent) -> ApiResult<Option<Task>> {
        match event {
            ClientEvent::Config(settings) => {
                // The same settings again change nothing, and end no sentence.
                if self.settings.as_deref() != Some(&settings) {
                    self.settings = Some(Arc::new(settings));
                }
                Ok(None)
            }
            ClientEvent::Text(text) => {
                let settings = self.settings.clone().ok_or_else(|| {
                    ApiError::invalid("type", "text before `session.config`, which says how it is read")
                })?;
                Ok(Some(Task::Read(text, settings)))
            }
            ClientEvent::Done => Ok(Some(Task::Finish)),
        }
    }
}

/// Takes the events of a session without reading aloud; returns the number of sentences, ends and errors.
#[cfg(any(test, fuzzing))]
pub(crate) fn check<'a>(app: &App, events: impl Iterator<Item = &'a str>) -> usize {
    let (mut tasks, mut sentences) = (Tasks::default(), Sentences::default());
    let count = |event| match ClientEvent::read(app, event).and_then(|event| tasks.of(event)) {
        Ok(None) => 0,
        Err(_) => 1,
        Ok(Some(Task::Read(text, settings))) => {
            pieces(&text).map(|piece| sentences.push(piece, settings.by_clauses).len()).sum()
        }
        Ok(Some(Task::Finish)) => sentences.finish().into_iter().count() + 1,
    };
    events.map(count).sum()
}
