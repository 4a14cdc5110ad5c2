//! Suites in the usual forms of their files.

mod aime;
mod choice;
mod csv;
mod files;
mod fleurs;
mod gpqa;
mod gtzan;
mod librispeech;
mod options;
mod prompts;
mod records;
mod seed_tts;
mod waves;
mod wenetspeech;
mod zebra;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use options::ReadOptions;

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
