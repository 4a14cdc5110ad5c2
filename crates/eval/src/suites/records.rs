//! Lists of questions: JSON, JSON lines or CSV with a header.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::csv;
use super::files::text_of;
use crate::error::{Error, Result};

/// An entry of a list of questions, which remembers where it stands.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    line: usize,
    fields: Map<String, Value>,
}

impl Record {
    /// The entries of a list, whose name tells its form: `.csv`, `.jsonl`, or JSON.
    pub(super) fn list(path: &Path) -> Result<Vec<Self>> {
        let text = text_of(path)?;
        let fields = match path.extension().and_then(|name| name.to_str()) {
            Some("csv") => csv_rows(path, &text)?,
            Some("jsonl") => json_lines(path, &text)?,
            _ => json_entries(path, &text)?,
        };
        if fields.is_empty() {
            return Err(Error::data(path, None, "it has no entries"));
        }
        Ok(fields.into_iter().map(|(line, fields)| Self { path: path.to_owned(), line, fields }).collect())
    }

    /// The folder of the list.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The first field of these names, whatever their letter case, that holds something.
    pub(super) fn find(&self, names: &[&str]) -> Option<&Value> {
        let field = |name: &&str| self.fields.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
        names.iter().filter_map(field).map(|(_, value)| value).find(|value| !is_empty(value))
    }

    /// A field that must be there.
    pub(super) fn get(&self, names: &[&str]) -> Result<&Value> {
        self.find(names).ok_or_else(|| self.error(format!("no `{}`", names.join("` or `"))))
    }

    /// A text or a number, as text.
    pub(super) fn text(&self, names: &[&str]) -> Result<String> {
        match self.get(names)? {
            Value::String(text) => Ok(text.trim().to_owned()),
            Value::Number(number) => Ok(number.to_string()),
            other => Err(self.error(format!("`{}` is {other}, expected a text", names[0]))),
        }
    }

    /// A text or a number that may be missing.
    pub(super) fn text_if_any(&self, names: &[&str]) -> Result<Option<String>> {
        self.find(names).map(|_| self.text(names)).transpose()
    }

    /// The id in the list, or the number of the entry.
    pub(super) fn id(&self) -> Result<String> {
        let named = self.text_if_any(&["id", "Record ID", "uniq_id", "problem_idx"])?;
        Ok(named.unwrap_or_else(|| self.line.to_string()))
    }

    /// An error at this entry.
    pub(super) fn error(&self, reason: impl Into<String>) -> Error {
        Error::data(&self.path, self.line, reason)
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

type Rows = Vec<(usize, Map<String, Value>)>;

fn csv_rows(path: &Path, text: &str) -> Result<Rows> {
    let mut rows = csv::rows(text.trim_start_matches('\u{feff}')).into_iter();
    let (_, header) = rows.next().ok_or_else(|| Error::data(path, None, "expected a header"))?;
    let row = |(line, cells): (usize, Vec<String>)| {
        if cells.len() != header.len() {
            let reason = format!("{} cells, expected {} as in the header", cells.len(), header.len());
            return Err(Error::data(path, line, reason));
        }
        Ok((line, header.iter().cloned().zip(cells.into_iter().map(Value::from)).collect()))
    };
    rows.map(row).collect()
}

fn json_lines(path: &Path, text: &str) -> Result<Rows> {
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let entry = |(text, line): (&str, usize)| {
        let fields = serde_json::from_str(text).map_err(|error| Error::data(path, line, not_json(&error)))?;
        Ok((line, fields))
    };
    lines.map(entry).collect()
}

fn json_entries(path: &Path, text: &str) -> Result<Rows> {
    let list: Vec<Value> =
        serde_json::from_str(text).map_err(|error| Error::data(path, error.line(), not_json(&error)))?;
    let entry = |(value, number): (Value, usize)| match value {
        Value::Object(fields) => Ok((number, fields)),
        other => Err(Error::data(path, number, format!("the entry is {other}, expected a JSON object"))),
    };
    list.into_iter().zip(1..).map(entry).collect()
}

fn not_json(error: &serde_json::Error) -> String {
    format!("expected JSON objects: {error}")
}
