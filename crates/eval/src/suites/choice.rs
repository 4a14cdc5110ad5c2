//! Multiple choice about sound, in the forms of MMAU and MuChoMusic.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files::file_of;
use super::gpqa::shuffled;
use super::options::ReadOptions;
use super::records::Record;
use crate::error::{Error, Result};
use crate::item::{Expected, Item, Sound, Task};

const LISTS: [&str; 6] =
    ["mmau-test-mini.json", "mmau-test.json", "muchomusic.json", "muchomusic.csv", "questions.jsonl", "questions.json"];

/// Reads a list of questions; sound files are named from its folder.
pub(super) fn read(data: &Path, options: &ReadOptions) -> Result<Vec<Item>> {
    let records = Record::list(&file_of(data, &LISTS)?)?;
    records.iter().zip(0..).map(|(record, index)| item(record, options.seed.wrapping_add(index))).collect()
}

fn item(record: &Record, seed: u64) -> Result<Item> {
    let question = record.text(&["question", "prompt", "instruction"])?;
    let (options, right) = options(record, seed)?;
    let group = record.text_if_any(&["task", "category", "genre"])?;
    let task = Task::Answer { question, sound: sound(record)?, expected: Expected::Choice { options, right } };
    Ok(Item { id: record.id()?, group, task })
}

/// The options, and which one is right.
fn options(record: &Record, seed: u64) -> Result<(Vec<String>, usize)> {
    // MuChoMusic as a table: the right answer, and three others.
    if record.find(&["correct_answer"]).is_some() && record.find(&["distractor_1_answer"]).is_some() {
        let names = ["correct_answer", "distractor_1_answer", "distractor_2_answer", "distractor_3_answer"];
        let texts = names.iter().filter_map(|name| record.text_if_any(&[*name]).transpose());
        return Ok(shuffled(texts.collect::<Result<_>>()?, seed));
    }
    let options = match record.get(&["choices", "options", "answers"])? {
        Value::Array(list) => list.iter().map(|option| option.as_str().map(str::trim).map(str::to_owned)).collect(),
        _ => None,
    };
    let options: Vec<String> = options.ok_or_else(|| record.error("its options are no list of texts"))?;
    let right = right(record, &options)?;
    match options.len() {
        2..=26 => Ok((options, right)),
        count => Err(record.error(format!("{count} options, expected 2 to 26"))),
    }
}

/// Index of the right option: the option of that text, letter or number, or the place of 0 in `answer_orders`.
fn right(record: &Record, options: &[String]) -> Result<usize> {
    if let Some(Value::Array(order)) = record.find(&["answer_orders"]) {
        let found = order.iter().position(|index| index.as_u64() == Some(0)).filter(|index| *index < options.len());
        return found.ok_or_else(|| record.error("`answer_orders` has no 0, the right answer"));
    }
    let answer = record.text(&["answer", "correct_answer", "answer_gt", "label"])?;
    let bare = answer.trim_start_matches('(').trim_end_matches(['.', ')']);
    let letter = || {
        let letter = bare.bytes().next().filter(|letter| bare.len() == 1 && letter.is_ascii_uppercase());
        letter.map(|letter| usize::from(letter - b'A'))
    };
    let found = options.iter().position(|option| *option == answer).or_else(letter).or_else(|| bare.parse().ok());
    found
        .filter(|index| *index < options.len())
        .ok_or_else(|| record.error(format!("the answer `{answer}` is none of the options {options:?}")))
}

fn sound(record: &Record) -> Result<Option<Sound>> {
    let Some(name) = record.text_if_any(&["audio_id", "audio_path", "audio", "path", "file"])? else {
        return Ok(None);
    };
    let path: PathBuf = record.folder().join(&name);
    match path.is_file() {
        true => Ok(Some(Sound::whole(path))),
        false => Err(missing(record, &path)),
    }
}

fn missing(record: &Record, path: &Path) -> Error {
    record.error(format!("there is no file {}", path.display()))
}
