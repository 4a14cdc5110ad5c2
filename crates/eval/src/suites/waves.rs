//! Recordings in a folder, each with its words in a text file of the same name, or a list `meta.lst` in SEED-TTS's form. A line is
//! `id|text|wave`, or `id|prompt text|prompt wave|text|wave`, of which the last recording and its text are read.

use std::path::Path;

use super::files::{entries, is_sound, name_of, sound_file, text_of};
use super::options::ReadOptions;
use crate::error::{Error, Result};
use crate::item::{Item, Sound, Task};
use crate::normalise::Normaliser;

const LIST: &str = "meta.lst";

/// Reads a list, a folder, or one recording; the language is the name of the folder, or else English. Without a text file, the words are
/// not known: an empty text.
pub(super) fn read(data: &Path, options: &ReadOptions) -> Result<Vec<Item>> {
    let list = if data.is_dir() { data.join(LIST) } else { data.to_owned() };
    let folder = list.parent().map(name_of).filter(|name| matches!(name.as_str(), "en" | "zh"));
    let language = options.language.clone().or(folder).unwrap_or_else(|| "en".into());
    let normaliser = Normaliser::of_language(&language);
    if is_sound(data) && data.is_file() {
        return Ok(vec![recording(data, normaliser)?]);
    }
    if !list.is_file() {
        let sounds = entries(data)?.into_iter().filter(|path| path.is_file() && is_sound(path));
        return sounds.map(|path| recording(&path, normaliser)).collect();
    }
    let text = text_of(&list)?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    lines.map(|(line, number)| listed(&list, line, number, normaliser)).collect()
}

fn item(id: String, file: impl Into<std::path::PathBuf>, text: &str, normaliser: Normaliser) -> Item {
    let text = text.trim().to_owned();
    Item { id, group: None, task: Task::Transcribe { sound: Sound::whole(file), text, normaliser } }
}

/// A recording beside its words.
fn recording(path: &Path, normaliser: Normaliser) -> Result<Item> {
    let words = path.with_extension("txt");
    let text = if words.is_file() { text_of(&words)? } else { String::new() };
    Ok(item(name_of(path), path, &text, normaliser))
}

/// A line of a list.
fn listed(list: &Path, line: &str, number: usize, normaliser: Normaliser) -> Result<Item> {
    let fields: Vec<&str> = line.split('|').map(str::trim).collect();
    let (id, text, wave) = match fields[..] {
        [id, text, wave] | [id, text, wave, _] | [id, _, _, text, wave] => (id, text, wave),
        _ => {
            let reason = format!(
                "{} fields between |, expected id|text|wave or id|prompt text|prompt wave|text|wave",
                fields.len()
            );
            return Err(Error::data(list, number, reason));
        }
    };
    let path = list.parent().unwrap_or(Path::new("")).join(wave);
    Ok(item(id.into(), sound_file(path, (list, number))?, text, normaliser))
}
