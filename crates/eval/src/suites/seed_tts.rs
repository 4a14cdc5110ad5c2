//! SEED-TTS: `meta.lst` with lines `id|prompt text|prompt wave|text`, behind which the true wave may stand, or `id|text`, or
//! `id|text|prompt wave`. Checkpoints speak in voices of their own, so that prompts are not used.

use std::path::Path;

use super::files::{file_of, name_of, text_of};
use super::options::ReadOptions;
use crate::error::{Error, Result};
use crate::item::{Item, Task};
use crate::normalise::Normaliser;

/// Reads the texts; the language is the name of the list's folder, or else English.
pub(super) fn read(data: &Path, options: &ReadOptions) -> Result<Vec<Item>> {
    let list = file_of(data, &["meta.lst"])?;
    let folder = list.parent().map(name_of).filter(|name| matches!(name.as_str(), "en" | "zh"));
    let language = options.language.clone().or(folder).unwrap_or_else(|| "en".into());
    let normaliser = Normaliser::of_language(&language);
    let text = text_of(&list)?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    lines.map(|(line, number)| item(&list, line, number, normaliser)).collect()
}

fn item(list: &Path, line: &str, number: usize, normaliser: Normaliser) -> Result<Item> {
    let fields: Vec<&str> = line.split('|').map(str::trim).collect();
    let (id, text) = match fields[..] {
        [id, text] | [id, text, _] | [id, _, _, text] | [id, _, _, text, _] => (id, text),
        _ => {
            let reason = format!("{} fields between |, expected id|prompt text|prompt wave|text", fields.len());
            return Err(Error::data(list, number, reason));
        }
    };
    match text.is_empty() {
        true => Err(Error::data(list, number, "the text is empty")),
        false => Ok(Item { id: id.into(), group: None, task: Task::Speak { text: text.into(), normaliser } }),
    }
}
