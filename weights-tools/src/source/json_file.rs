//! JSON files of a checkpoint directory.

use std::path::Path;

use omni_core::{Error, Result};
use serde_json::Value;

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::config(format!("{}: {error}", path.display())).caused_by(error))
}
