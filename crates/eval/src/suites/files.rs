//! The files of a suite: found, listed and read.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Endings of sound files that may stand beside a transcript.
pub(super) const SOUND: [&str; 7] = ["flac", "wav", "mp3", "ogg", "opus", "m4a", "au"];

pub(super) fn text_of(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
    let line =
        |error: std::str::Utf8Error| 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(Error::data(path, line(error), "it is no UTF-8")),
    }
}

/// The entries of a folder, in the order of their names.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let refuse = |source| Error::io(folder, source);
    let entries = fs::read_dir(folder).map_err(refuse)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = entries.collect::<Result<Vec<_>, _>>().map_err(refuse)?;
    paths.sort();
    Ok(paths)
}

/// The file at `data`, or the first of these that lies in the folder `data`.
pub(super) fn file_of(data: &Path, names: &[&str]) -> Result<PathBuf> {
    if data.is_file() {
        return Ok(data.to_owned());
    }
    let found = names.iter().map(|name| data.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| Error::data(data, None, format!("expected a file, or a folder with {}", names.join(" or "))))
}

/// A sound file that must be there.
pub(super) fn sound_file(path: PathBuf, told_by: (&Path, usize)) -> Result<PathBuf> {
    match path.is_file() {
        true => Ok(path),
        false => Err(Error::data(told_by.0, told_by.1, format!("there is no file {}", path.display()))),
    }
}

pub(super) fn is_sound(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_lowercase);
    ending.is_some_and(|ending| SOUND.contains(&ending.as_str()))
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
