//! WenetSpeech: `WenetSpeech.json`, whose `audios` have a `path` and `segments` with `sid`, `begin_time`, `end_time`, `subsets` and
//! `text`.

use std::path::Path;

use serde::Deserialize;

use super::files::{file_of, text_of};
use super::options::ReadOptions;
use crate::error::{Error, Result};
use crate::item::{Item, Sound, Task};
use crate::normalise::Normaliser;

#[derive(Deserialize)]
struct Corpus {
    audios: Vec<Audio>,
}

#[derive(Deserialize)]
struct Audio {
    path: String,
    segments: Vec<Segment>,
}

#[derive(Deserialize)]
struct Segment {
    sid: String,
    begin_time: f64,
    end_time: f64,
    #[serde(default)]
    subsets: Vec<String>,
    text: String,
}

/// Reads the segments of a subset, `TEST_NET` by default.
pub(super) fn read(data: &Path, options: &ReadOptions) -> Result<Vec<Item>> {
    let list = file_of(data, &["WenetSpeech.json"])?;
    let text = text_of(&list)?;
    let refuse = |error: serde_json::Error| Error::data(&list, error.line(), format!("no list of audios: {error}"));
    let corpus: Corpus = serde_json::from_str(&text).map_err(refuse)?;
    let subset = options.split.as_deref().unwrap_or("TEST_NET");
    let normaliser = Normaliser::of_language(options.language.as_deref().unwrap_or("zh"));
    let mut items = Vec::new();
    for audio in &corpus.audios {
        let file = list.parent().unwrap_or(Path::new("")).join(&audio.path);
        for segment in audio.segments.iter().filter(|segment| segment.subsets.iter().any(|name| name == subset)) {
            items.push(item(&list, &file, segment, normaliser)?);
        }
    }
    match items.is_empty() {
        true => Err(Error::data(&list, None, format!("no segment of the subset {subset}"))),
        false => Ok(items),
    }
}

fn item(list: &Path, file: &Path, segment: &Segment, normaliser: Normaliser) -> Result<Item> {
    let wrong = |reason: String| Error::data(list, None, format!("segment {}: {reason}", segment.sid));
    let Segment { sid, begin_time, end_time, text, .. } = segment;
    if !file.is_file() {
        return Err(wrong(format!("there is no file {}", file.display())));
    }
    if !(0.0 <= *begin_time && begin_time < end_time) {
        return Err(wrong(format!("it is {begin_time} to {end_time} s")));
    }
    let sound = Sound { file: file.to_owned(), span: Some((*begin_time, *end_time)) };
    Ok(Item { id: sid.clone(), group: None, task: Task::Transcribe { sound, text: text.clone(), normaliser } })
}
