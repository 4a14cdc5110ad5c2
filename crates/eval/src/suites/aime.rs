//! AIME: a list with `problem` and `answer`, a whole number from 0 to 999.

use std::path::Path;

use super::files::file_of;
use super::records::Record;
use crate::error::Result;
use crate::item::{Expected, Item, Task};

const LISTS: [&str; 5] = ["aime.jsonl", "test.jsonl", "aime.json", "aime.csv", "questions.jsonl"];

/// Reads the problems.
pub(super) fn read(data: &Path) -> Result<Vec<Item>> {
    Record::list(&file_of(data, &LISTS)?)?.iter().map(item).collect()
}

fn item(record: &Record) -> Result<Item> {
    let question = record.text(&["problem", "question"])?;
    let answer = record.text(&["answer", "expected_answer"])?;
    let wrong = || record.error(format!("the answer is `{answer}`, expected a whole number"));
    let number = answer.trim_matches('$').parse().map_err(|_| wrong())?;
    let group = record.text_if_any(&["year", "exam"])?;
    Ok(Item {
        id: record.id()?,
        group,
        task: Task::Answer { question, sound: None, expected: Expected::Integer(number) },
    })
}
