//! Training data: the forms of lines, their labels, the order of batches.

mod batches;
mod lines;
mod samples;
mod segments;

use std::path::Path;
use std::sync::Arc;

use qwen3_omni_train::data::{Line, Location};
use qwen3_omni_train::{Error, Result};
use serde_json::Value;

/// Understands a line that stands as the seventh in `/data/talks.jsonl`.
fn parse(json: impl ToString) -> Result<Line> {
    Line::parse(&json.to_string(), &Location { path: Arc::from(Path::new("/data/talks.jsonl")), line: 7 })
}

/// The reason for which a line is refused.
fn refused(json: &Value) -> String {
    match parse(json) {
        Err(error @ Error::Data { .. }) => error.to_string(),
        other => panic!("{json}: {other:?}"),
    }
}
