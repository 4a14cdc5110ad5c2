//! What is kept in a directory until it is whole, so that writing can be resumed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use checkpoint::UNFINISHED;
use omni_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::quantize::TensorError;

/// The job that was asked for, and the shards that are whole, each with the errors of its quantised tensors.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    job: Map<String, Value>,
    pub(super) finished: BTreeMap<String, Vec<TensorError>>,
}

impl State {
    /// The state of a directory that was begun by the same job, or a new one.
    ///
    /// # Errors
    /// [`Error::Request`] if the directory holds a checkpoint, or one that another job has begun.
    pub(super) fn open(directory: &Path, job: &Map<String, Value>, restart: bool) -> Result<Self> {
        let path = directory.join(UNFINISHED);
        std::fs::create_dir_all(directory).map_err(|source| Error::io(directory, source))?;
        if path.is_file() && restart {
            clear(directory)?;
        }
        if !path.is_file() {
            refuse_occupied(directory)?;
            return Ok(Self { job: job.clone(), finished: BTreeMap::new() });
        }
        let text = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
        let state: State = serde_json::from_slice(&text).map_err(|error| {
            let advice = "use --restart to write everything anew";
            Error::Request(format!(
                "{}: the notes of a half-written checkpoint are damaged ({error}); {advice}",
                path.display()
            ))
        })?;
        match difference(&state.job, job) {
            None => Ok(state),
            Some(difference) => Err(Error::Request(format!(
                "{}: this half-written checkpoint was begun by another command: {difference}; repeat that command to \
                 resume it, or use --restart to write everything anew",
                directory.display()
            ))),
        }
    }

    pub(super) fn save(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).expect("notes can be written as JSON");
        replace(&directory.join(UNFINISHED), &text)
    }
}

/// Replaces a file atomically: it holds either the old text or the new one, never a part.
pub(super) fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let partial = partial(path);
    std::fs::write(&partial, text).map_err(|source| Error::io(&partial, source))?;
    std::fs::rename(&partial, path).map_err(|source| Error::io(path, source))
}

/// The name of a file while it is written.
pub(super) fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn difference(was: &Map<String, Value>, is: &Map<String, Value>) -> Option<String> {
    let keys = was.keys().chain(is.keys().filter(|key| !was.contains_key(*key)));
    let none = &Value::Null;
    let differs = |key: &&String| was.get(*key).unwrap_or(none) != is.get(*key).unwrap_or(none);
    let tell =
        |key: &String| format!("`{key}` was {} and is {}", was.get(key).unwrap_or(none), is.get(key).unwrap_or(none));
    let all: Vec<String> = keys.filter(differs).map(tell).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// Refuses a directory that is occupied.
///
/// # Errors
/// [`Error::Request`] for a directory that holds a checkpoint, or the config of one.
pub(super) fn refuse_occupied(directory: &Path) -> Result<()> {
    let files = ["model.safetensors.index.json", "model.safetensors", "config.json"];
    match files.into_iter().find(|file| directory.join(file).exists()) {
        None => Ok(()),
        Some(file) => Err(Error::Request(format!(
            "{}: there is a {file} already; expected an empty or new directory",
            directory.display()
        ))),
    }
}

/// Removes what a half-finished job has written.
fn clear(directory: &Path) -> Result<()> {
    let entries = std::fs::read_dir(directory).map_err(|source| Error::io(directory, source))?;
    let ours = |name: &str| {
        name.starts_with("model") && (name.contains(".safetensors"))
            || name == "config.json"
            || name.ends_with(".partial")
    };
    let names = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(ours));
    // The notes go last: without them, the rest would look like a checkpoint.
    for path in names.map(|entry| entry.path()).chain([directory.join(UNFINISHED)]) {
        std::fs::remove_file(&path).map_err(|source| Error::io(&path, source))?;
    }
    Ok(())
}
