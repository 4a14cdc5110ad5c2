//! ZebraLogic in its grid mode: a list with `puzzle`, `size` and `solution`, which has a `header` of `House` and attributes, and `rows`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::files::file_of;
use super::records::Record;
use crate::error::Result;
use crate::extract::Grid;
use crate::item::{Expected, Item, Task};

const LISTS: [&str; 4] = ["zebra.jsonl", "test.jsonl", "zebra.json", "questions.jsonl"];

#[derive(Deserialize)]
struct Solution {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Reads the puzzles.
pub(super) fn read(data: &Path) -> Result<Vec<Item>> {
    Record::list(&file_of(data, &LISTS)?)?.iter().map(item).collect()
}

fn item(record: &Record) -> Result<Item> {
    let refuse = |error| record.error(format!("its solution has no header and rows of texts: {error}"));
    let solution: Solution = serde_json::from_value(record.get(&["solution"])?.clone()).map_err(refuse)?;
    let expected = Expected::Grid(grid(record, &solution)?);
    let task = Task::Answer { question: record.text(&["puzzle", "question"])?, sound: None, expected };
    Ok(Item { id: record.id()?, group: record.text_if_any(&["size"])?, task })
}

fn grid(record: &Record, solution: &Solution) -> Result<Grid> {
    if solution.header.len() < 2 || solution.rows.is_empty() {
        return Err(record.error("its solution is empty, as in the public list: the private one is needed"));
    }
    let mut houses = BTreeMap::new();
    for (row, number) in solution.rows.iter().zip(1..) {
        if row.len() != solution.header.len() {
            return Err(record.error(format!(
                "row {number} has {} cells, expected {}",
                row.len(),
                solution.header.len()
            )));
        }
        let cells = solution.header.iter().zip(row).skip(1).map(|(name, value)| (name.clone(), value.clone()));
        houses.insert(format!("House {number}"), cells.collect());
    }
    Ok(Grid(houses))
}
