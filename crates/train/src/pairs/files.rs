use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use qwen3_omni::PartKind;
use serde_json::{Map, Value};

use super::{Pair, Pairing, Take};
use crate::data::{DataSource, Line, Location, write_codes};
use crate::trainer::io;
use crate::{Error, Result};

/// What was made of the lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PairCounts {
    /// Lines that were spoken.
    pub spoken: usize,
    /// Lines with a pair.
    pub pairs: usize,
    /// Lines that cannot be spoken.
    pub bad: usize,
    /// Speeches, and those of them with a fault.
    pub takes: usize,
    /// Speeches that did not end by themselves.
    pub faults: usize,
}

/// Speaks the lines of a source from the `first` on, counted from 1, and writes a line for each pair as soon as it is made: the line as it
/// was, with `codes` and `rejected_codes`, whose files lie in a folder beside `out`. Lines are added to `out` if it is there. `told`
/// hears of each line, of what was made of it and why it cannot be spoken.
///
/// # Errors
/// [`omni_core::Error::Io`], [`Error::Option`] for a recogniser that fails, and for `strict` also [`Error::Data`] for the first line that
/// cannot be spoken.
pub fn write_pairs(
    pairing: Pairing,
    (source, first): (&DataSource, u32),
    out: &Path,
    strict: bool,
    told: &mut dyn FnMut(&PairCounts, Option<&Error>),
) -> Result<PairCounts> {
    let mut writer = Writer::open(out)?;
    let mut counts = PairCounts::default();
    for index in first.max(1) - 1..source.lines() {
        let made = source.written(index).and_then(|written| match written {
            Some((text, location)) => writer.line(pairing, &text, &location, &mut counts).map(Some),
            None => Ok(None),
        });
        match made {
            Ok(None) => continue,
            Ok(Some(())) => told(&counts, None),
            Err(error @ Error::Data { .. }) if !strict => {
                counts.bad += 1;
                told(&counts, Some(&error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(counts)
}

struct Writer {
    out: PathBuf,
    file: File,
    /// Where the codes lie.
    folder: PathBuf,
}

impl Writer {
    fn open(out: &Path) -> Result<Self> {
        let folder = out.with_extension("codes");
        std::fs::create_dir_all(&folder).map_err(io(&folder))?;
        let file = OpenOptions::new().create(true).append(true).open(out).map_err(io(out))?;
        Ok(Self { out: out.to_owned(), file, folder })
    }

    fn line(&mut self, pairing: Pairing, text: &str, location: &Location, counts: &mut PairCounts) -> Result<()> {
        let line = Line::parse(text, location)?;
        let mut written = self.checked(text, &line)?;
        let takes = pairing.takes(&line)?;
        counts.spoken += 1;
        counts.takes += takes.len();
        counts.faults += takes.iter().filter(|take| !take.ends()).count();
        let Some(pair) = Pair::best_and_worst(&takes, pairing.settings) else { return Ok(()) };
        if let (None, Some(speaker)) = (&line.speaker, &pairing.settings.speaker) {
            written.insert("speaker".into(), speaker.as_str().into());
        }
        self.pair(written, location, pair)?;
        counts.pairs += 1;
        Ok(())
    }

    /// Adds a line with the codes of its pair in place of any speech it had.
    fn pair(&mut self, mut written: Map<String, Value>, location: &Location, pair: Pair) -> Result<()> {
        for key in ["speech", "rejected_speech"] {
            written.shift_remove(key);
        }
        for (key, take) in [("codes", pair.chosen), ("rejected_codes", pair.rejected)] {
            written.insert(key.into(), self.store(location, key, take)?.into());
        }
        written.insert("rejected_ends".into(), pair.rejected.ends().into());
        written.insert("wer".into(), serde_json::json!([pair.chosen.wer, pair.rejected.wer]));
        writeln!(self.file, "{}", Value::Object(written)).map_err(io(&self.out))
    }

    /// The keys of a line that can be written again, elsewhere.
    fn checked(&self, text: &str, line: &Line) -> Result<Map<String, Value>> {
        let refuse = |reason: &str| line.location.refuse(reason);
        let written: Map<String, Value> = serde_json::from_str(text).map_err(|error| refuse(&error.to_string()))?;
        if !written.contains_key("messages") {
            return Err(refuse("no `messages`, expected a conversation that ends with an answer"));
        }
        let has_media =
            line.messages.iter().flat_map(|message| message.parts()).any(|part| part.kind() != PartKind::Text);
        match has_media && !same_folder(&self.out, &line.location.path) {
            true => Err(refuse("its media are named from its folder: write the pairs into the same folder")),
            false => Ok(written),
        }
    }

    /// Writes the codes of a speech; returns their path from the folder of the lines.
    fn store(&self, location: &Location, key: &str, take: &Take) -> Result<String> {
        // With the name of their file: lines of several may be added to one file of pairs.
        let of = location.path.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{of}-{:06}-{key}.safetensors", location.line);
        write_codes(&self.folder.join(&name), &take.codes)?;
        let folder = self.folder.file_name().unwrap_or_default().to_string_lossy();
        Ok(format!("{folder}/{name}"))
    }
}

fn same_folder(a: &Path, b: &Path) -> bool {
    let folder = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        parent.canonicalize().ok()
    };
    folder(a) == folder(b)
}

#[cfg(test)]
mod tests {
    use qwen3_omni::SpeechFinish;

    use super::*;
    use crate::data::{SpeechTarget, read_codes};

    fn read(line: &Line, speech: Option<&SpeechTarget>) -> Vec<Vec<u32>> {
        match speech {
            Some(SpeechTarget::Codes(path)) => read_codes(path, 2, line).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_better_speech_is_the_one_to_learn() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("pairs.jsonl");
        let take = |codes: Vec<Vec<u32>>, wer, finish_reason| Take { codes, heard: String::new(), wer, finish_reason };
        let chosen = take(vec![vec![1, 2], vec![3, 2_047]], 0.0, SpeechFinish::End);
        let rejected = take(vec![vec![5, 6]], 1.0, SpeechFinish::Loop);
        let json = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "speech": "old.wav", "rejected_codes": "old.safetensors", "topic": "letters"}"#;
        let location = Location { path: Path::new("talks.jsonl").into(), line: 12 };
        let pair = Pair { chosen: &chosen, rejected: &rejected };
        Writer::open(&out).unwrap().pair(serde_json::from_str(json).unwrap(), &location, pair).unwrap();

        let written = std::fs::read_to_string(&out).unwrap();
        let line = Line::parse(&written, &Location { path: out.as_path().into(), line: 1 }).unwrap();
        assert_eq!(read(&line, line.speech.as_ref()), chosen.codes);
        assert_eq!(read(&line, line.rejected_speech.as_ref()), rejected.codes);
        assert_eq!((&line.extra["topic"], &line.extra["rejected_ends"]), (&"letters".into(), &false.into()));
    }
}
