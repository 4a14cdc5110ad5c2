use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::item::Item;

/// Outcomes as lines of JSON, behind a first line with the settings of their run; in memory alone without a file.
///
/// A run that was stopped goes on where it was: what is in the file is not asked again.
#[derive(Debug, Default)]
pub struct ItemsFile {
    file: Option<(PathBuf, File)>,
    done: HashMap<String, Outcome>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    settings: Settings,
}

impl ItemsFile {
    /// Keeps outcomes in memory.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Opens a file and reads what it holds, or begins a new one. A last line that was not written to its end is removed.
    ///
    /// # Errors
    /// [`Error::OtherRun`] if it was made with other settings, [`Error::Data`] if it is no such file, [`Error::Io`].
    pub fn open(path: &Path, settings: &Settings) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io(path, error)),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let done = read(path, whole, settings)?;
        let file = File::options().create(true).append(true).open(path).map_err(|source| Error::io(path, source))?;
        file.set_len(whole.len() as u64).map_err(|source| Error::io(path, source))?;
        let mut items = Self { file: Some((path.to_owned(), file)), done };
        if whole.is_empty() {
            items.write(&Header { settings: settings.clone() })?;
        }
        Ok(items)
    }

    /// The items that are not done.
    ///
    /// # Errors
    /// [`Error::Data`] if an item that is done had another right answer.
    pub(super) fn open_items<'i>(&self, items: &'i [Item]) -> Result<Vec<&'i Item>> {
        let mut open = Vec::new();
        for item in items {
            match self.done.get(&item.id) {
                None => open.push(item),
                Some(outcome) if outcome.expected == item.expected() => {}
                Some(outcome) => {
                    let path = self.file.as_ref().map_or(Path::new(""), |(path, _)| path);
                    let (id, ours) = (&item.id, item.expected());
                    let reason = format!("item `{id}` had the right answer {}, now it has {ours}", outcome.expected);
                    return Err(Error::data(path, None, reason));
                }
            }
        }
        Ok(open)
    }

    /// Adds an outcome.
    pub(super) fn append(&mut self, outcome: Outcome) -> Result<()> {
        self.write(&outcome)?;
        self.done.insert(outcome.id.clone(), outcome);
        Ok(())
    }

    /// The outcomes of items that are done, in their order.
    pub(super) fn of(&self, items: &[Item]) -> Vec<Outcome> {
        items.iter().filter_map(|item| self.done.get(&item.id).cloned()).collect()
    }

    /// Number of outcomes.
    pub fn len(&self) -> usize {
        self.done.len()
    }

    /// Whether nothing is done.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let mut text = serde_json::to_string(line).map_err(|error| Error::data(path, None, error.to_string()))?;
        text.push('\n');
        file.write_all(text.as_bytes()).map_err(|source| Error::io(path, source))
    }
}

fn read(path: &Path, text: &str, settings: &Settings) -> Result<HashMap<String, Outcome>> {
    let refuse = |line: usize, what: &str, error: serde_json::Error| {
        Error::data(path, line, format!("expected {what}: {error}"))
    };
    let mut lines = text.lines().zip(1..);
    if let Some((first, _)) = lines.next() {
        let header: Header = serde_json::from_str(first).map_err(|error| refuse(1, "the settings of a run", error))?;
        if let Some((setting, ours, theirs)) = settings.difference(&header.settings) {
            let (path, setting) = (path.to_owned(), setting.to_owned());
            return Err(Error::OtherRun { path, setting, theirs: theirs.to_string(), ours: ours.to_string() });
        }
    }
    let outcome = |(line, number)| {
        let outcome: Outcome = serde_json::from_str(line).map_err(|error| refuse(number, "an outcome", error))?;
        Ok((outcome.id.clone(), outcome))
    };
    lines.map(outcome).collect()
}
