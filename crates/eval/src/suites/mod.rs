//! Suites in the usual forms of their files.

mod aime;
mod choice;
mod csv;
mod fleurs;
mod gpqa;
mod gtzan;
mod librispeech;
mod prompts;
mod records;
mod seed_tts;
mod waves;
mod wenetspeech;
mod zebra;

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::item::Item;

/// A suite, by the form of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Suite {
    /// English books: `SPLIT/SPEAKER/CHAPTER/*.flac` and `*.trans.txt`.
    Librispeech,
    /// Sentences of 102 languages: `LANGUAGE/SPLIT.tsv` and `LANGUAGE/audio/SPLIT/*.wav`.
    Fleurs,
    /// Mandarin of the web: `WenetSpeech.json` and the files that it names.
    Wenetspeech,
    /// Genres of music: `GENRE/*.wav`.
    Gtzan,
    /// Multiple choice about sound, as MMAU and MuChoMusic have it.
    Choice,
    /// Questions of science with four options: a CSV.
    Gpqa,
    /// Problems of mathematics whose answers are whole numbers.
    Aime,
    /// Logic puzzles whose solutions are grids.
    Zebra,
    /// Texts to be spoken: `meta.lst`.
    SeedTts,
    /// Recordings of one's own, with or without their words: a folder, or `meta.lst`.
    Waves,
}

/// How the files of a suite are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The part of the suite; each form has its usual one.
    pub split: Option<String>,
    /// Language as a code, `en` or `zh`, where the files do not tell it.
    pub language: Option<String>,
    /// Seed of the order of options, where the files always have the right one first.
    pub seed: u64,
}

impl Suite {
    /// All suites.
    pub const ALL: [Self; 10] = [
        Self::Librispeech,
        Self::Fleurs,
        Self::Wenetspeech,
        Self::Gtzan,
        Self::Choice,
        Self::Gpqa,
        Self::Aime,
        Self::Zebra,
        Self::SeedTts,
        Self::Waves,
    ];

    /// The name of the suite on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Librispeech => "librispeech",
            Self::Fleurs => "fleurs",
            Self::Wenetspeech => "wenetspeech",
            Self::Gtzan => "gtzan",
            Self::Choice => "choice",
            Self::Gpqa => "gpqa",
            Self::Aime => "aime",
            Self::Zebra => "zebra",
            Self::SeedTts => "seed-tts",
            Self::Waves => "waves",
        }
    }

    /// Reads what is asked from the files at `data`, in the same order each time.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Data`], which name file and line; two items of one id are an error, too.
    pub fn read(self, data: &Path, options: &ReadOptions) -> Result<Vec<Item>> {
        let items = match self {
            Self::Librispeech => librispeech::read(data, options),
            Self::Fleurs => fleurs::read(data, options),
            Self::Wenetspeech => wenetspeech::read(data, options),
            Self::Gtzan => gtzan::read(data),
            Self::Choice => choice::read(data, options),
            Self::Gpqa => gpqa::read(data, options),
            Self::Aime => aime::read(data),
            Self::Zebra => zebra::read(data),
            Self::SeedTts => seed_tts::read(data, options),
            Self::Waves => waves::read(data, options),
        }?;
        let mut ids = HashSet::new();
        match items.iter().find(|item| !ids.insert(item.id.as_str())) {
            Some(item) => Err(Error::data(data, None, format!("two items have the id `{}`", item.id))),
            None if items.is_empty() => Err(Error::data(data, None, format!("no item of the form of {self}"))),
            None => Ok(items),
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let names = Self::ALL.map(Self::name).join(", ");
        let unknown = || Error::Request(format!("`{name}` is no suite: expected one of {names}"));
        Self::ALL.into_iter().find(|suite| suite.name() == name).ok_or_else(unknown)
    }
}

/// Endings of sound files that may stand beside a transcript.
const SOUND: [&str; 7] = ["flac", "wav", "mp3", "ogg", "opus", "m4a", "au"];

fn text_of(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
    let line =
        |error: std::str::Utf8Error| 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(Error::data(path, line(error), "it is no UTF-8")),
    }
}

/// The entries of a folder, in the order of their names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let refuse = |source| Error::io(folder, source);
    let entries = fs::read_dir(folder).map_err(refuse)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = entries.collect::<Result<Vec<_>, _>>().map_err(refuse)?;
    paths.sort();
    Ok(paths)
}

/// The file at `data`, or the first of these that lies in the folder `data`.
fn file_of(data: &Path, names: &[&str]) -> Result<PathBuf> {
    if data.is_file() {
        return Ok(data.to_owned());
    }
    let found = names.iter().map(|name| data.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| Error::data(data, None, format!("expected a file, or a folder with {}", names.join(" or "))))
}

/// A sound file that must be there.
fn sound_file(path: PathBuf, told_by: (&Path, usize)) -> Result<PathBuf> {
    match path.is_file() {
        true => Ok(path),
        false => Err(Error::data(told_by.0, told_by.1, format!("there is no file {}", path.display()))),
    }
}

fn is_sound(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_lowercase);
    ending.is_some_and(|ending| SOUND.contains(&ending.as_str()))
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
