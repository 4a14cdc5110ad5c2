//! Entries of media: paths, base64, frames of a video.

use std::path::{Path, PathBuf};

use qwen3_omni::media::Source;
use qwen3_omni::media::video::VideoOptions;
use qwen3_omni::{Part, PartKind, VideoInput, VideoSound};
use serde_json::Value;

use super::fields::{Fields, kind};
use super::location::Location;
use crate::Result;

/// Length above which a text without a dot is taken for base64, not for a path.
const LONGEST_PATH: usize = 200;
const KINDS: [PartKind; 3] = [PartKind::Image, PartKind::Audio, PartKind::Video];

/// The lists `images`, `audios` and `videos` of a line, and how many of each kind its messages mention.
pub(super) struct MediaLists<'a> {
    location: &'a Location,
    lists: [List; 3],
}

struct List {
    kind: PartKind,
    entries: Vec<Value>,
    mentioned: usize,
}

impl<'a> MediaLists<'a> {
    /// Takes the lists; the keys `image`, `audio` and `video` are the same, for one entry or several.
    pub(super) fn take(fields: &mut Fields<'a>) -> Result<Self> {
        let location = fields.location;
        let mut list = |kind: PartKind| {
            let (one, many) = (kind.name(), format!("{}s", kind.name()));
            let entries = match (fields.take(&many), fields.take(one)) {
                (Some(_), Some(_)) => return Err(fields.both(&many, one)),
                (Some(Value::Array(entries)), None) | (None, Some(Value::Array(entries))) => entries,
                (Some(entry), None) | (None, Some(entry)) => vec![entry],
                (None, None) => Vec::new(),
            };
            Ok(List { kind, entries, mentioned: 0 })
        };
        let [images, audios, videos] = KINDS.map(&mut list);
        Ok(Self { location, lists: [images?, audios?, videos?] })
    }

    /// The part of the next entry of a kind; none if there are too few, which [`MediaLists::finish`] reports.
    pub(super) fn next(&mut self, kind: PartKind) -> Result<Option<Part>> {
        let Some(list) = self.lists.iter_mut().find(|list| list.kind == kind) else { return Ok(None) };
        list.mentioned += 1;
        list.entries.get(list.mentioned - 1).map(|entry| part(kind, entry, None, self.location)).transpose()
    }

    /// Checks that messages and lists agree in number.
    pub(super) fn finish(self) -> Result<()> {
        match self.lists.iter().find(|list| list.mentioned != list.entries.len()) {
            None => Ok(()),
            Some(List { kind, entries, mentioned }) => {
                let (name, found) = (kind.name(), entries.len());
                Err(self.location.refuse(format!(
                    "{mentioned} tags `<{name}>` in user messages, but {found} entries of `{name}s`: expected as many"
                )))
            }
        }
    }
}

/// Makes the part of an entry: a path, base64, or for a video also a list of frames.
pub(super) fn part(kind: PartKind, entry: &Value, rate: Option<f64>, location: &Location) -> Result<Part> {
    match (kind, entry) {
        (PartKind::Image, Value::String(text)) => Ok(Part::Image(source(text, location)?.into())),
        (PartKind::Audio, Value::String(text)) => Ok(Part::Audio(source(text, location)?.into())),
        (PartKind::Video, Value::String(text)) => Ok(video(source(text, location)?.into())),
        (PartKind::Video, Value::Array(frames)) => {
            let frames = frames.iter().map(|frame| match frame {
                Value::String(text) => source(text, location),
                other => {
                    Err(location.refuse(format!("a frame of a video is {}, expected a string", self::kind(other))))
                }
            });
            let frames = frames.collect::<Result<Vec<_>>>()?;
            Ok(video(VideoInput::images(frames, rate.unwrap_or_else(|| VideoOptions::default().frames_per_second))))
        }
        (_, other) => {
            let (name, found) = (kind.name(), self::kind(other));
            Err(location.refuse(format!("{name} entry: {found}, expected a path or base64")))
        }
    }
}

fn video(video: VideoInput) -> Part {
    Part::Video { video, sound: VideoSound::Auto }
}

/// A path, relative to the file of the line, or base64: as a `data:` URI, or a text too long for a path and without a dot.
fn source(text: &str, location: &Location) -> Result<Source> {
    match Source::from_base64(text) {
        Ok(bytes) if may_be_embedded(text) => Ok(bytes),
        Err(error) if is_uri(text) => Err(location.refuse(error.to_string())),
        _ => Ok(check_path(text, location)?.into()),
    }
}

/// Whether a text holds the bytes of a file instead of its path.
pub(super) fn is_embedded(text: &str) -> bool {
    is_uri(text) || (may_be_embedded(text) && Source::from_base64(text).is_ok())
}

fn is_uri(text: &str) -> bool {
    text.starts_with("data:")
}

fn may_be_embedded(text: &str) -> bool {
    is_uri(text) || (text.len() > LONGEST_PATH && !text.contains('.'))
}

/// A path, relative to the file of the line.
pub(super) fn check_path(text: &str, location: &Location) -> Result<PathBuf> {
    let text = text.strip_prefix("file://").unwrap_or(text);
    if text.is_empty() {
        return Err(location.refuse("an empty path, expected a file"));
    }
    if text.contains("://") {
        return Err(location.refuse(format!("URL `{text}`, expected a file: nothing is downloaded")));
    }
    Ok(location.path.parent().unwrap_or(Path::new("")).join(text))
}
