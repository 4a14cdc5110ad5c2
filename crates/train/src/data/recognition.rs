//! Lines as the text decoder of the audio encoder reads them: a sound, what is asked of it, and its text.

use qwen3_omni::{AudioInput, AutPrompt, AutTask, Message, Part, ReadMedia, Role, recognition_mel};
use serde_json::Value;

use super::fields::kind;
use super::line::Line;
use super::sample::{ReadSample, SampleReader, split_reasoning};
use crate::Result;

impl SampleReader {
    /// The sound's placeholders, one for each row of the encoder; prompt, text and `<|im_end|>`, of which the last two are learned.
    pub(super) fn recognition(&self, line: &Line) -> Result<ReadSample> {
        let (sound, text) = spoken(line)?;
        let (config, tokenizer) = (self.conversations().config(), self.conversations().tokenizer());
        let mel = recognition_mel(sound, config.audio.chunk_frames())?;
        let rows = config.audio.tokens(mel.frames());
        let prompt = prompt(line)?.ids(tokenizer, config.turns.im_start)?;
        let text = tokenizer.encode_as_text(&text)?;
        let ids = [vec![self.label_ids().placeholders[0]; rows], prompt, text, vec![self.end_of_turn()]];
        let unlearned = ids[0].len() + ids[1].len();
        let ids = ids.concat();
        let learns = line.learns.contains(&true);
        let labels = ids.iter().enumerate().map(|(at, id)| (learns && at >= unlearned).then_some(*id)).collect();
        Ok(ReadSample { ids, labels, media: vec![ReadMedia::Sound(mel)], audio_in_video: Vec::new() })
    }
}

/// The only sound of a line, and the text that is its only answer. What the user writes beside the sound does not matter.
fn spoken(line: &Line) -> Result<(&AudioInput, String)> {
    let refuse = |found: String| {
        Err(line.location.refuse(format!("{found}, expected one sound and one assistant message of text behind it")))
    };
    let asked: Vec<&Part> = line.prompt().iter().flat_map(Message::parts).collect();
    let sounds: Vec<&AudioInput> =
        asked.iter().filter_map(|part| if let Part::Audio(sound) = part { Some(sound) } else { None }).collect();
    if asked.iter().any(|part| !matches!(part, Part::Text(_) | Part::Audio(_))) {
        return refuse("a picture or a video".into());
    }
    let answers: Vec<Message> = line
        .messages
        .iter()
        .filter(|message| message.role() == Role::Assistant)
        .map(|answer| split_reasoning(answer).map_or_else(|| answer.clone(), |(_, answer)| answer))
        .collect();
    match (&sounds[..], &answers[..]) {
        ([sound], [answer]) if line.messages.last().is_some_and(|last| last.role() == Role::Assistant) => {
            let text =
                answer.parts().iter().map(|part| if let Part::Text(text) = part { Some(&text[..]) } else { None });
            match text.collect::<Option<String>>().filter(|_| answer.tool_calls().is_empty()) {
                Some(text) => Ok((sound, text)),
                None => refuse("an answer that is not all text".into()),
            }
        }
        _ => refuse(format!("{} sounds and {} assistant messages", sounds.len(), answers.len())),
    }
}

/// What the line's keys `task` and `language` ask; to transcribe unless they say otherwise.
fn prompt(line: &Line) -> Result<AutPrompt> {
    let text = |key: &str| match line.extra.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(other) => Err(line.location.refuse(format!("`{key}` is {}, expected a string", kind(other)))),
    };
    let task = text("task")?.map_or(Ok(AutTask::Transcribe), str::parse);
    let task = task.map_err(|error: qwen3_omni::Error| line.location.refuse(error.to_string()))?;
    Ok(AutPrompt::new(task, text("language")?))
}
