use qwen3_omni::{AutTask, Message, PartKind, TRANSCRIBE};
use serde_json::{Map, Value};

use super::entries::part;
use super::fields::Fields;
use crate::Result;

/// A recording, what is asked of it, and the answer: a conversation of one turn.
pub(super) struct Transcript {
    /// The user's message: the recording, and what is asked of it.
    pub(super) question: Message,
    /// The answer.
    pub(super) text: String,
    /// The task, the language if there is one, and keys without a meaning here.
    pub(super) extra: Map<String, Value>,
}

/// What is asked of a recording: the question with a language, and without.
fn questions(task: AutTask) -> (&'static str, &'static str) {
    match task {
        AutTask::Transcribe => ("Transcribe the {} audio into text.", TRANSCRIBE),
        AutTask::Translate => ("Translate the speech into {} text.", "Translate the speech into English text."),
        AutTask::Caption => ("Describe the audio in {}.", "Describe the audio."),
        AutTask::Detect => ("Which language is spoken?", "Which language is spoken?"),
    }
}

impl Transcript {
    /// Understands `{"audio": …, "text": …, "task": …, "language": …}`. The task is to transcribe unless the line says otherwise.
    pub(super) fn read(mut fields: Fields) -> Result<Self> {
        let (location, audio, text) = (fields.location, fields.take("audio"), fields.text("text")?);
        let (Some(audio), Some(text)) = (audio, text) else {
            return Err(location.refuse("expected the key `messages`, or `audio` and `text`"));
        };
        let (task, language) = (fields.text("task")?, fields.text("language")?);
        let task = task.map_or(Ok(AutTask::default()), |name| name.parse());
        let task: AutTask = task.map_err(|error| location.refuse(error.to_string()))?;
        let (with, without) = questions(task);
        let asked = language.as_deref().map_or(without.to_owned(), |name| with.replace("{}", &capitalised(name)));
        let question = Message::user().part(part(PartKind::Audio, &audio, None, location)?).text(asked);
        let mut extra = fields.rest();
        extra.insert("task".into(), Value::String(task.name().to_owned()));
        extra.extend(language.map(|language| ("language".into(), Value::String(language))));
        Ok(Self { question, text, extra })
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
