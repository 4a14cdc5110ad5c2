//! FLEURS: `LANGUAGE/SPLIT.tsv`, seven columns without a header (id, file, text as written, text normalised, text spelt out, samples,
//! gender), and `LANGUAGE/audio/SPLIT/FILE`. The text as written is the reference: both sides are normalised here.

use std::path::Path;

use super::files::{name_of, sound_file, text_of};
use super::options::ReadOptions;
use crate::error::{Error, Result};
use crate::item::{Item, Sound, Task};
use crate::normalise::Normaliser;

/// Reads a split, `test` by default, of the language whose folder `data` is.
pub(super) fn read(data: &Path, options: &ReadOptions) -> Result<Vec<Item>> {
    let split = options.split.as_deref().unwrap_or("test");
    let normaliser = Normaliser::of_language(options.language.as_deref().unwrap_or(&name_of(data)));
    let list = data.join(format!("{split}.tsv"));
    let text = text_of(&list)?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    lines.map(|(line, number)| item(data, split, &list, line, number, normaliser)).collect()
}

fn item(data: &Path, split: &str, list: &Path, line: &str, number: usize, normaliser: Normaliser) -> Result<Item> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [_, file, text, _, _, _, gender] = columns[..] else {
        return Err(Error::data(list, number, format!("{} columns, expected 7", columns.len())));
    };
    let places = [data.join("audio").join(split), data.join(split), data.join("audio")].map(|folder| folder.join(file));
    let [usual, ..] = &places;
    let found = places.iter().find(|path| path.is_file()).unwrap_or(usual).clone();
    let sound = Sound::whole(sound_file(found, (list, number))?);
    let group = Some(gender.trim().to_lowercase()).filter(|gender| !gender.is_empty());
    // Sentences are read by several people, so that the file is what tells them apart.
    Ok(Item { id: file.to_owned(), group, task: Task::Transcribe { sound, text: text.to_owned(), normaliser } })
}
