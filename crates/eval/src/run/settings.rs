use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// What the figures of a run depend on, by name. A file of items is continued only with the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(Map<String, Value>);

impl Settings {
    /// Adds a setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Adds a checkpoint: its directory, and a checksum over the names, sizes and times of its files, which changes with the weights.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub fn with_model(self, directory: &Path) -> Result<Self> {
        self.with_directory("model", directory)
    }

    /// Adds a directory under a name, as [`Settings::with_model`] adds that of the model.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub fn with_directory(self, name: &str, directory: &Path) -> Result<Self> {
        let path = fs::canonicalize(directory).map_err(|source| Error::io(directory, source))?;
        let files = fingerprint(directory)?;
        Ok(self.with(name, path.to_string_lossy()).with(&format!("{name}_files"), files))
    }

    /// Adds the adapters of the checkpoint, each as [`Settings::with_model`] adds a checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`] if a directory cannot be read.
    pub fn with_adapters(self, directories: &[PathBuf]) -> Result<Self> {
        let one = |directory: &PathBuf| {
            let path = fs::canonicalize(directory).map_err(|source| Error::io(directory, source))?;
            Ok(json!({"path": path.to_string_lossy(), "files": fingerprint(directory)?}))
        };
        let adapters = directories.iter().map(one).collect::<Result<Vec<Value>>>()?;
        Ok(if adapters.is_empty() { self } else { self.with("adapters", adapters) })
    }

    /// The settings as JSON.
    pub fn as_json(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The first setting that differs, and its value on either side.
    pub(super) fn difference<'a>(&'a self, other: &'a Self) -> Option<(&'a str, Value, Value)> {
        let names = self.0.keys().chain(other.0.keys());
        let value = |settings: &Self, name: &str| settings.0.get(name).cloned().unwrap_or(json!(null));
        let differing = names.map(|name| (name.as_str(), value(self, name), value(other, name)));
        differing.into_iter().find(|(_, ours, theirs)| ours != theirs)
    }
}

fn fingerprint(directory: &Path) -> Result<String> {
    let refuse = |source| Error::io(directory, source);
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let data = fs::metadata(entry.path()).map_err(refuse)?;
        let changed = data.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        files.push(format!("{} {} {}", entry.file_name().to_string_lossy(), data.len(), changed.as_nanos()));
    }
    files.sort();
    Ok(format!("{:08x}", crc32fast::hash(files.join("\n").as_bytes())))
}
