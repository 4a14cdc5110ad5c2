//! GTZAN: `genres_original/GENRE/GENRE.00000.wav`, or the folders of genres themselves. Their names are the options.

use std::path::{Path, PathBuf};

use super::files::{entries, is_sound, name_of};
use crate::error::{Error, Result};
use crate::item::{Expected, Item, Sound, Task};

const QUESTION: &str = "What is the genre of this music?";

/// Reads the files of all genres.
pub(super) fn read(data: &Path) -> Result<Vec<Item>> {
    let inner = ["genres_original", "genres"].map(|name| data.join(name)).into_iter().find(|path| path.is_dir());
    let folder = inner.as_deref().unwrap_or(data);
    let folders: Vec<PathBuf> = entries(folder)?.into_iter().filter(|path| path.is_dir()).collect();
    let options: Vec<String> = folders.iter().map(|path| name_of(path)).collect();
    if !(2..=26).contains(&options.len()) {
        return Err(Error::data(folder, None, format!("{} folders of genres, expected 2 to 26", options.len())));
    }
    let mut items = Vec::new();
    for (right, genre) in folders.iter().enumerate() {
        for file in entries(genre)?.into_iter().filter(|path| is_sound(path)) {
            items.push(item(file, &options, right));
        }
    }
    Ok(items)
}

fn item(file: PathBuf, options: &[String], right: usize) -> Item {
    let id = format!("{}/{}", options[right], name_of(&file));
    let expected = Expected::Choice { options: options.to_vec(), right };
    let task = Task::Answer { question: QUESTION.into(), sound: Some(Sound::whole(file)), expected };
    Item { id, group: Some(options[right].clone()), task }
}
