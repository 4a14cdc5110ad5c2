//! What is kept in a directory until it is whole, so that writing can be resumed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use checkpoint::UNFINISHED;
use omni_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::lock::LOCK;
use crate::new_file::{partial, replace, sync_directory};
use crate::quantize::error::TensorError;

/// The job that was asked for, every file it makes, and the shards that are whole.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    job: Map<String, Value>,
    files: BTreeSet<String>,
    pub(super) finished: BTreeMap<String, Finished>,
}

/// A shard that is whole.
#[derive(Serialize, Deserialize)]
pub(super) struct Finished {
    /// CRC-32 of the file.
    pub(super) crc32: u32,
    /// The errors of its quantised tensors.
    pub(super) errors: Vec<TensorError>,
}

impl State {
    /// The state of a directory that was begun by the same job, or a new one. `files` are the names of all files that the
    /// job makes.
    ///
    /// # Errors
    /// [`Error::Request`] for a directory with files that are not this tool's, or one that another job has begun.
    pub(super) fn open(
        directory: &Path,
        job: &Map<String, Value>,
        files: BTreeSet<String>,
        restart: bool,
    ) -> Result<Self> {
        let begun = read(directory).and_then(|found| match found {
            Some(state) if restart => state.clear(directory).map(|()| None),
            found => Ok(found),
        });
        let begun = match begun {
            // Nothing says which files are this tool's, so only the notes themselves go.
            Err(Error::Request(_)) if restart && strangers(directory)?.is_empty() => {
                remove(directory, [UNFINISHED.to_owned()].iter())?;
                None
            }
            other => other?,
        };
        let Some(mut state) = begun else {
            refuse_in_the_way(directory, files.iter())?;
            return Ok(Self { job: job.clone(), files, finished: BTreeMap::new() });
        };
        if let Some(difference) = difference("", &state.job, job) {
            return Err(Error::Request(format!(
                "{}: this half-written checkpoint was begun by another command: {difference}; repeat that command to \
                 resume it, or use --restart to write everything anew",
                directory.display()
            )));
        }
        refuse_in_the_way(directory, files.difference(&state.files))?;
        state.files.extend(files);
        Ok(state)
    }

    pub(super) fn save(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).expect("notes can be written as JSON");
        replace(&directory.join(UNFINISHED), &text)
    }

    /// Removes what the job has written, and no other file. The notes go last: without them, the rest would look like a checkpoint.
    fn clear(self, directory: &Path) -> Result<()> {
        remove(directory, self.files.iter().chain([&UNFINISHED.to_owned()]))
    }
}

/// Reads the notes of a directory, if it has any.
fn read(directory: &Path) -> Result<Option<State>> {
    let path = directory.join(UNFINISHED);
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
    let parsed = serde_json::from_slice::<State>(&text).map_err(|error| error.to_string());
    let state = parsed.and_then(|state| match state.files.iter().find(|name| !is_file_name(name)) {
        Some(name) => Err(format!("`{name}` is not the name of a file in this directory")),
        None => Ok(state),
    });
    state.map(Some).map_err(|reason| {
        Error::Request(format!(
            "{}: the notes of a half-written checkpoint are damaged ({reason}); remove the files that were written here, \
             then use --restart to write everything anew",
            path.display()
        ))
    })
}

/// Whether it names a file in the directory itself: notes are read from a disk, and files they name are removed.
fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(only)), None) if only == name)
}

/// Removes files, and what is left of them half-written.
fn remove<'a>(directory: &Path, names: impl Iterator<Item = &'a String>) -> Result<()> {
    for name in names {
        let path = directory.join(name);
        for path in [partial(&path), path] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path, error)),
                _ => {}
            }
        }
    }
    sync_directory(directory)
}

fn difference(within: &str, was: &Map<String, Value>, is: &Map<String, Value>) -> Option<String> {
    let keys = was.keys().chain(is.keys().filter(|key| !was.contains_key(*key)));
    let all: Vec<String> = keys
        .filter_map(|key| {
            let name = format!("{within}{key}");
            match [was, is].map(|side| side.get(key).unwrap_or(&Value::Null)) {
                [was, is] if was == is => None,
                [Value::Object(was), Value::Object(is)] => difference(&format!("{name}: "), was, is),
                [was, is] => Some(format!("`{name}` was {was} and is {is}")),
            }
        })
        .collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// Refuses a directory that holds files which are not this tool's.
///
/// # Errors
/// [`Error::Request`] naming one of the files.
pub(super) fn refuse_foreign(directory: &Path) -> Result<()> {
    if directory.join(UNFINISHED).exists() {
        return Ok(());
    }
    let found = strangers(directory)?;
    // What tells most about the directory.
    let known = ["model.safetensors.index.json", "model.safetensors", "config.json"];
    match known.into_iter().find(|name| found.contains(*name)).or(found.first().map(String::as_str)) {
        None => Ok(()),
        Some(file) => Err(occupied(directory, file)),
    }
}

fn refuse_in_the_way<'a>(directory: &Path, mut names: impl Iterator<Item = &'a String>) -> Result<()> {
    match names.find(|name| directory.join(name).symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(file) => Err(occupied(directory, file)),
    }
}

fn occupied(directory: &Path, file: &str) -> Error {
    let path = directory.display();
    Error::Request(format!("{path}: there is a {file} already; expected an empty or new directory"))
}

/// The names in a directory that are neither the lock nor the notes.
fn strangers(directory: &Path) -> Result<BTreeSet<String>> {
    let io = |source| Error::io(directory, source);
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(io)?,
    };
    let notes = partial(Path::new(UNFINISHED));
    let ours = |name: &String| [LOCK, UNFINISHED].contains(&name.as_str()) || Path::new(name) == notes;
    let names = entries.map(|entry| Ok(entry.map_err(io)?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<String>>>()?;
    Ok(names.into_iter().filter(|name| !ours(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_that_lead_out_of_the_directory_are_no_file_names() {
        for name in ["../a", "a/b", "/a", ".", "..", "", "a/"] {
            assert!(!is_file_name(name), "{name}");
        }
        assert!(is_file_name("model-00001-of-00002.safetensors"));
    }

    #[test]
    fn only_what_differs_is_told_also_inside_of_a_list() {
        let map = |value: Value| value.as_object().unwrap().clone();
        let was = map(json!({"seed": 1, "weights": {"a": "x", "b": "y"}}));
        assert_eq!(difference("", &was, &was), None);
        let is = map(json!({"seed": 2, "weights": {"a": "x", "b": "z"}}));
        let told = difference("", &was, &is).unwrap();
        assert_eq!(told, "`seed` was 1 and is 2, `weights: b` was \"y\" and is \"z\"");
    }
}
