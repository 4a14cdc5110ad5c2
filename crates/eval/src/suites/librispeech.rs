//! LibriSpeech: `SPLIT/SPEAKER/CHAPTER/ID.flac`, and beside them `SPEAKER-CHAPTER.trans.txt` with lines `ID TEXT`.

use std::path::{Path, PathBuf};

use super::files::{SOUND, entries, text_of};
use super::options::ReadOptions;
use crate::error::{Error, Result};
use crate::item::{Item, Sound, Task};
use crate::normalise::Normaliser;

/// Reads a split, or whatever transcripts lie below `data`.
pub(super) fn read(data: &Path, options: &ReadOptions) -> Result<Vec<Item>> {
    let folder = options.split.as_ref().map_or_else(|| data.to_owned(), |split| data.join(split));
    let normaliser = Normaliser::of_language(options.language.as_deref().unwrap_or("en"));
    let mut items = Vec::new();
    for transcript in transcripts(&folder)? {
        for (line, number) in text_of(&transcript)?.lines().zip(1..) {
            if !line.trim().is_empty() {
                items.push(item(&transcript, line, number, normaliser)?);
            }
        }
    }
    match items.is_empty() {
        true => Err(Error::data(&folder, None, "expected folders with *.trans.txt")),
        false => Ok(items),
    }
}

fn transcripts(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            found.extend(transcripts(&path)?);
        } else if path.to_string_lossy().ends_with(".trans.txt") {
            found.push(path);
        }
    }
    Ok(found)
}

fn item(transcript: &Path, line: &str, number: usize, normaliser: Normaliser) -> Result<Item> {
    let wrong = |reason: String| Error::data(transcript, number, reason);
    let Some((id, text)) = line.trim().split_once(char::is_whitespace) else {
        return Err(wrong(format!("`{line}`, expected an id and a text")));
    };
    let folder = transcript.parent().unwrap_or(Path::new(""));
    let files = SOUND.iter().map(|ending| folder.join(format!("{id}.{ending}")));
    let file = files.into_iter().find(|path| path.is_file());
    let file = file.ok_or_else(|| wrong(format!("there is no {id}.flac beside it")))?;
    let task = Task::Transcribe { sound: Sound::whole(file), text: text.trim().to_owned(), normaliser };
    Ok(Item { id: id.to_owned(), group: None, task })
}
