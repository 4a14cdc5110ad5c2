//! Sentences spoken word by word: the codes of single words, joined. A word always has the same codes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use qwen3_omni::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

use crate::data::Draw;
use crate::files::{io, read_text, write_text};

/// Say the answers of CODES/spoken.jsonl word by word, in the codes of CODES/spoken-words.jsonl, into CODES/lexicon.jsonl
#[derive(Args)]
pub(crate) struct Lexicon {
    /// Folder that `qwen3-omni-train encode` wrote
    codes: PathBuf,
    /// Decides what is drawn
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// Codes of a recording, `[frames, codebooks]`.
#[derive(Debug, Clone, PartialEq)]
struct Codes {
    dtype: Dtype,
    shape: [usize; 2],
    bytes: Vec<u8>,
}

/// Codes of each word, by speaker.
type Words = BTreeMap<String, BTreeMap<String, Codes>>;

const CODES: &str = "codes";
const NAME: &str = "lexicon";

impl Lexicon {
    pub(crate) fn run(&self) -> Result<()> {
        let speakers = self.words()?;
        let lines = read_lines(&self.codes.join("spoken.jsonl"))?;
        let folder = self.codes.join(NAME);
        std::fs::create_dir_all(&folder).map_err(io(&folder))?;
        let mut draw = Draw::new(self.seed, NAME, 0);
        let mut written = String::new();
        let said = lines.iter().flat_map(|line| speakers.iter().map(move |speaker| (line, speaker)));
        for (number, (line, (speaker, words))) in said.enumerate() {
            let (text, file) = (answer(line), format!("{NAME}/{number:06}.safetensors"));
            joined(&text, words, speaker)?.write(&self.codes.join(&file))?;
            // The question is another line's, so that only the answer's text tells what is said.
            let mut line = lines[draw.below(lines.len())].clone();
            if let Some(last) = line["messages"].as_array_mut().and_then(|messages| messages.last_mut()) {
                last["content"] = text.into();
            }
            (line["codes"], line["speaker"]) = (file.into(), speaker.clone().into());
            written += &format!("{line}\n");
        }
        write_text(&self.codes.join(format!("{NAME}.jsonl")), &written)?;
        println!("{} answers by {} speakers: {}", lines.len(), speakers.len(), self.codes.display());
        Ok(())
    }

    fn words(&self) -> Result<Words> {
        let mut words = Words::new();
        for line in read_lines(&self.codes.join("spoken-words.jsonl"))? {
            let codes = Codes::read(&self.codes.join(text(&line["codes"])))?;
            words.entry(text(&line["speaker"])).or_default().insert(answer(&line), codes);
        }
        Ok(words)
    }
}

/// The codes of a text.
fn joined(text: &str, recorded: &BTreeMap<String, Codes>, speaker: &str) -> Result<Codes> {
    let mut joined: Option<Codes> = None;
    for word in text.split(' ') {
        let missing = || Error::Request(format!("no recording of `{word}` by `{speaker}`"));
        let codes = recorded.get(word).ok_or_else(missing)?;
        match &mut joined {
            Some(joined) => joined.push(codes),
            None => joined = Some(codes.clone()),
        }
    }
    joined.ok_or_else(|| Error::Request("an answer without words".into()))
}

impl Codes {
    fn read(path: &Path) -> Result<Self> {
        let wrong = |reason: &dyn std::fmt::Display| Error::config(format!("{}: {reason}", path.display()));
        let file = std::fs::read(path).map_err(io(path))?;
        let tensors = SafeTensors::deserialize(&file).map_err(|error| wrong(&error).caused_by(error))?;
        let tensor = tensors.tensor(CODES).map_err(|error| wrong(&error).caused_by(error))?;
        let [frames, books] = tensor.shape() else { return Err(wrong(&"expected codes [frames, codebooks]")) };
        Ok(Self { dtype: tensor.dtype(), shape: [*frames, *books], bytes: tensor.data().to_vec() })
    }

    /// Adds frames.
    fn push(&mut self, more: &Self) {
        self.shape[0] += more.shape[0];
        self.bytes.extend_from_slice(&more.bytes);
    }

    fn write(&self, path: &Path) -> Result<()> {
        let wrong = |error: &dyn std::fmt::Display| Error::config(format!("{}: {error}", path.display()));
        let view = TensorView::new(self.dtype, self.shape.to_vec(), &self.bytes)
            .map_err(|error| wrong(&error).caused_by(error))?;
        safetensors::serialize_to_file([(CODES, view)], None, path).map_err(|error| wrong(&error).caused_by(error))
    }
}

fn read_lines(path: &Path) -> Result<Vec<Value>> {
    let parse = |(number, line): (usize, &str)| {
        let wrong = |error: serde_json::Error| {
            Error::config(format!("{}:{}: {error}", path.display(), number + 1)).caused_by(error)
        };
        serde_json::from_str(line).map_err(wrong)
    };
    read_text(path)?.lines().enumerate().map(parse).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn answer(line: &Value) -> String {
    line["messages"]
        .as_array()
        .and_then(|messages| messages.last())
        .map_or_else(String::new, |last| text(&last["content"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn codes(values: &[i64]) -> Codes {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Codes { dtype: Dtype::I64, shape: [values.len() / 2, 2], bytes }
    }

    #[test]
    fn answers_are_said_word_by_word() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let line = |question: &str, answer: &str, codes: &str| {
            json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
                   "codes": codes, "speaker": "ethan"})
            .to_string()
        };
        let recordings = [("red", [1, 2, 3, 4].as_slice()), ("cat", &[7, 8])];
        let mut recorded = String::new();
        for (number, (word, values)) in recordings.iter().enumerate() {
            let file = format!("{number}.safetensors");
            codes(values).write(&at(&file)).unwrap();
            recorded += &(line("say it", word, &file) + "\n");
        }
        write_text(&at("spoken-words.jsonl"), &recorded).unwrap();
        let spoken = [line("one", "red cat", "x"), line("two", "cat", "x")];
        write_text(&at("spoken.jsonl"), &spoken.join("\n")).unwrap();
        let lexicon = Lexicon { codes: folder.path().to_owned(), seed: 1 };
        lexicon.run().unwrap();
        let lines = read_lines(&at("lexicon.jsonl")).unwrap();
        assert_eq!(lines.iter().map(answer).collect::<Vec<_>>(), ["red cat", "cat"]);
        let found = Codes::read(&at(lines[0]["codes"].as_str().unwrap())).unwrap();
        assert_eq!(found, codes(&[1, 2, 3, 4, 7, 8]));
        write_text(&at("spoken.jsonl"), &line("what", "blue cat", "x")).unwrap();
        assert!(lexicon.run().unwrap_err().to_string().contains("`blue` by `ethan`"));
    }
}
