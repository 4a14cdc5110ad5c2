//! `config.json` as a file of sections: each model reads and checks its own.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::CheckpointError;

/// A `config.json`, read and parsed once.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    json: Value,
}

/// The section of a `config.json` that describes one model. Unknown keys are ignored; missing optional keys take the reference's
/// defaults.
pub trait ConfigSection: DeserializeOwned {
    /// Keys that lead to the section, joined by dots; empty for the whole file.
    const SECTION: &'static str;

    /// Checks the values that a model cannot be built with.
    ///
    /// # Errors
    /// [`ConfigFault`] naming the section and what was expected.
    fn validate(&self) -> Result<(), ConfigFault>;
}

/// A wrong value in a config: where it stands, what was found and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The key or section, as a path through the objects.
    pub at: String,
    /// What was found and what was expected.
    pub reason: String,
}

impl ConfigFault {
    /// Returns a fault unless `good`; `reason` says what was found and what was expected.
    ///
    /// # Errors
    /// The fault.
    pub fn unless(good: bool, at: &str, reason: impl FnOnce() -> String) -> Result<(), Self> {
        if good { Ok(()) } else { Err(Self { at: at.to_owned(), reason: reason() }) }
    }

    /// Returns a fault if one of the named sizes is 0.
    ///
    /// # Errors
    /// The fault, naming the first size that is 0.
    pub fn unless_positive(at: &str, sizes: &[(&str, usize)]) -> Result<(), Self> {
        match sizes.iter().find(|(_, size)| *size == 0) {
            Some((name, _)) => Err(Self { at: at.to_owned(), reason: format!("{name} is 0, expected at least 1") }),
            None => Ok(()),
        }
    }

    /// Turns the fault into an error about the file it was read from.
    pub fn in_file(self, path: &Path) -> CheckpointError {
        CheckpointError::Json { path: path.to_owned(), at: self.at, reason: self.reason }
    }
}

impl ConfigFile {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], or [`CheckpointError::Json`] for a file that is not JSON.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        Ok(Self { path: path.to_owned(), json: read_json(path)? })
    }

    /// Wraps a config made by a program; `path` is what errors name.
    pub fn of_json(path: &Path, json: Value) -> Self {
        Self { path: path.to_owned(), json }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The contents of the whole file.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The value of a section; `None` if a key of its path is absent or null.
    pub fn get(&self, section: &str) -> Option<&Value> {
        let mut keys = section.split('.').filter(|key| !key.is_empty());
        keys.try_fold(&self.json, |value, key| value.get(key)).filter(|value| !value.is_null())
    }

    /// Reads a section without checking its values.
    ///
    /// # Errors
    /// [`CheckpointError::Json`] naming the key that is missing or of another kind.
    pub fn parse<C: ConfigSection>(&self) -> Result<C, CheckpointError> {
        let fault = |at: String, reason: String| ConfigFault { at, reason }.in_file(&self.path);
        let value = self.get(C::SECTION);
        let value = value.ok_or_else(|| fault(C::SECTION.to_owned(), "missing: expected an object".to_owned()))?;
        serde_path_to_error::deserialize(value).map_err(|error| {
            let inner = error.path().to_string();
            let within = [C::SECTION, if inner == "." { "" } else { &inner }];
            let at: Vec<&str> = within.into_iter().filter(|part| !part.is_empty()).collect();
            fault(if at.is_empty() { ".".to_owned() } else { at.join(".") }, error.into_inner().to_string())
        })
    }

    /// Reads and checks a section.
    ///
    /// # Errors
    /// [`CheckpointError::Json`] naming the key that is missing or wrong.
    pub fn section<C: ConfigSection>(&self) -> Result<C, CheckpointError> {
        let section: C = self.parse()?;
        section.validate().map_err(|fault| fault.in_file(&self.path))?;
        Ok(section)
    }
}

/// Reads a JSON file; errors name the key.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let text = std::fs::read(path).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
    let mut json = serde_json::Deserializer::from_slice(&text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| CheckpointError::Json {
        path: path.to_owned(),
        at: error.path().to_string(),
        reason: error.into_inner().to_string(),
    })
}
