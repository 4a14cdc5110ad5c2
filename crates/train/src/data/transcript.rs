use qwen3_omni::{AutTask, Message, PartKind, TRANSCRIBE};
use serde_json::Value;

use super::entries::part;
use super::fields::Fields;
use super::line::Line;
use crate::Result;

/// What is asked of a recording: the question with a language, and without.
fn questions(task: AutTask) -> (&'static str, &'static str) {
    match task {
        AutTask::Transcribe => ("Transcribe the {} audio into text.", TRANSCRIBE),
        AutTask::Translate => ("Translate the speech into {} text.", "Translate the speech into English text."),
        AutTask::Caption => ("Describe the audio in {}.", "Describe the audio."),
        AutTask::Detect => ("Which language is spoken?", "Which language is spoken?"),
    }
}

/// Understands `{"audio": …, "text": …, "task": …, "language": …}`: a conversation of one turn. The task is to transcribe unless the
/// line says otherwise.
pub(super) fn line(mut fields: Fields) -> Result<Line> {
    let (location, audio, text) = (fields.location, fields.take("audio"), fields.text("text")?);
    let (Some(audio), Some(text)) = (audio, text) else {
        return Err(location.refuse("expected the key `messages`, or `audio` and `text`"));
    };
    let (task, language) = (fields.text("task")?, fields.text("language")?);
    let task = task.map_or(Ok(AutTask::default()), |name| name.parse());
    let task: AutTask = task.map_err(|error| location.refuse(error.to_string()))?;
    let (with, without) = questions(task);
    let question = language.as_deref().map_or(without.to_owned(), |name| with.replace("{}", &capitalised(name)));
    let user = Message::user().part(part(PartKind::Audio, &audio, None, location)?).text(question);
    let (location, task) = (location.clone(), task.name().to_owned());
    let mut extra = fields.rest();
    extra.insert("task".into(), Value::String(task));
    extra.extend(language.map(|language| ("language".into(), Value::String(language))));
    Ok(Line {
        messages: vec![user, Message::assistant(text)],
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

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
