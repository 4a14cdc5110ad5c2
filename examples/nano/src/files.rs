//! Files with errors that name them.

use std::path::Path;

use qwen3_omni::{Error, Result};
use serde_json::Value;

pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Io { path, source }
}

pub(crate) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(io(path))
}

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let wrong = |error: serde_json::Error| Error::config(format!("{}: {error}", path.display())).caused_by(error);
    serde_json::from_str(&read_text(path)?).map_err(wrong)
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map(drop).map_err(io(from))
}

pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(io(path))
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_text(path, &format!("{value:#}\n"))
}
