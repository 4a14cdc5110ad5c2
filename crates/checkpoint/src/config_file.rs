//! `config.json` as a file of sections: each model reads and checks its own.

use std::io::{Error, ErrorKind};
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

    /// Returns a fault if one of the named widths or table sizes is 0 or implausibly large.
    ///
    /// # Errors
    /// The fault, naming the first size that is out of range.
    pub fn unless_sizes(at: &str, sizes: &[(&str, usize)]) -> Result<(), Self> {
        Self::unless_within(at, sizes, 1 << 24)
    }

    /// Returns a fault if one of the named counts (of layers, experts, heads, codebooks) is 0 or implausibly large. Models allocate
    /// per layer or expert before its tensors are looked up.
    ///
    /// # Errors
    /// The fault, naming the first count that is out of range.
    pub fn unless_counts(at: &str, counts: &[(&str, usize)]) -> Result<(), Self> {
        Self::unless_within(at, counts, 1 << 12)
    }

    fn unless_within(at: &str, numbers: &[(&str, usize)], most: usize) -> Result<(), Self> {
        let wrong = numbers.iter().find(|(_, number)| !(1..=most).contains(number));
        wrong.map_or(Ok(()), |(name, number)| {
            Self::unless(false, at, || format!("{name} is {number}, expected 1 to {most}"))
        })
    }

    /// Returns a fault unless `eps` is finite and not negative.
    ///
    /// # Errors
    /// The fault, naming the key.
    pub fn unless_eps(at: &str, name: &str, eps: f64) -> Result<(), Self> {
        Self::unless((0.0..f64::INFINITY).contains(&eps), at, || format!("{name} is {eps}, expected at least 0"))
    }

    /// The same fault as seen from outside `section`.
    pub(crate) fn within(self, section: &str) -> Self {
        let at = if self.at.is_empty() { section.to_owned() } else { format!("{section}.{}", self.at) };
        Self { at, ..self }
    }

    /// Turns the fault into an error about the file it was read from.
    pub fn in_file(self, path: &Path) -> CheckpointError {
        CheckpointError::Json { path: path.to_owned(), at: self.at, reason: self.reason, source: None }
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
    pub fn of_json(path: &Path, mut json: Value) -> Self {
        drop_nulls(&mut json);
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
        let missing = || ConfigFault { at: C::SECTION.to_owned(), reason: "missing: expected an object".to_owned() };
        let value = self.get(C::SECTION).ok_or_else(|| missing().in_file(&self.path))?;
        serde_path_to_error::deserialize(value).map_err(|error| {
            let inner = error.path().to_string();
            let within = [C::SECTION, if inner == "." { "" } else { &inner }];
            let at: Vec<&str> = within.into_iter().filter(|part| !part.is_empty()).collect();
            unreadable(&self.path, if at.is_empty() { ".".to_owned() } else { at.join(".") }, error.into_inner())
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

/// Largest JSON file that is read; the index of the released checkpoint has 3 MB.
const MOST_BYTES: u64 = 1 << 28;

/// Reads a JSON file of a checkpoint directory. A key whose value is null counts as absent, as it does for the reference.
///
/// # Errors
/// [`CheckpointError::Io`] for what cannot be read or is no regular file, [`CheckpointError::Json`] naming the key that is missing
/// or wrong.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let text = read_regular(path).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
    let mut json: Value = serde_json::from_slice(&text).map_err(|error| unreadable(path, ".".into(), error))?;
    drop_nulls(&mut json);
    serde_path_to_error::deserialize(json)
        .map_err(|error| unreadable(path, error.path().to_string(), error.into_inner()))
}

fn unreadable(path: &Path, at: String, error: serde_json::Error) -> CheckpointError {
    CheckpointError::Json { path: path.to_owned(), at, reason: error.to_string(), source: Some(error) }
}

/// Reads a regular file of moderate size. Reading a pipe would block, and a device may have no end.
fn read_regular(path: &Path) -> std::io::Result<Vec<u8>> {
    let about = std::fs::metadata(path)?;
    match about.len() {
        _ if !about.is_file() => Err(Error::new(ErrorKind::InvalidInput, "this is no regular file")),
        length if length > MOST_BYTES => {
            Err(Error::new(ErrorKind::FileTooLarge, format!("{length} bytes, expected at most {MOST_BYTES}")))
        }
        _ => std::fs::read(path),
    }
}

/// Removes the members of objects whose value is null.
fn drop_nulls(json: &mut Value) {
    match json {
        Value::Object(members) => {
            members.retain(|_, value| !value.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
