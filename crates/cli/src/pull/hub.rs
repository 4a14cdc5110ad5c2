//! The files of one revision of a repository.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo, Metadata};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use qwen3_omni::{Error, Result};

use super::checksum::Checksum;
use super::progress::{Progress, bar};

/// Time before a broken connection is taken up again.
const PAUSE: Duration = Duration::from_secs(1);

/// A revision of a repository, as its commit, so that all files are of one state.
pub struct Hub {
    endpoint: String,
    repository: String,
    commit: String,
    files: Vec<String>,
}

/// A cache, and what fetches into it.
struct Store {
    api: Api,
    repo: ApiRepo,
    cached: CacheRepo,
}

impl Hub {
    /// Asks for the commit and the names of its files.
    ///
    /// # Errors
    /// [`Error::Io`] naming the address, [`Error::Request`] for a repository without weights.
    pub fn new(endpoint: &str, repository: &str, revision: &str) -> Result<Self> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let api = api(&endpoint, Cache::from_env())?;
        let asked = Repo::with_revision(repository.to_owned(), RepoType::Model, revision.to_owned());
        let address = format!("{endpoint}/{repository}/tree/{revision}");
        let info = api.repo(asked).info().map_err(|error| failed(&address, error))?;
        let files: Vec<String> =
            info.siblings.into_iter().map(|file| file.rfilename).filter(|name| is_of_checkpoint(name)).collect();
        if !files.iter().any(|name| name.ends_with(".safetensors")) {
            return Err(Error::Request(format!("{address}: there are no safetensors files")));
        }
        Ok(Self { endpoint, repository: repository.to_owned(), commit: info.sha, files })
    }

    /// Downloads what the hub's cache lacks; returns the directory there.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn download(&self) -> Result<PathBuf> {
        let store = self.store(Cache::from_env())?;
        let mut directory = None;
        for index in 0..self.files.len() {
            directory = self.obtain(&store, index)?.parent().map(Path::to_owned);
        }
        directory.ok_or_else(|| Error::Request(format!("{}: there are no files", self.repository)))
    }

    /// Downloads into a directory of its own; files lie in a folder within it until each is whole.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, [`Error::Request`] if another checkpoint is there.
    pub fn download_to(&self, directory: &Path) -> Result<PathBuf> {
        let partial = directory.join(".pull");
        self.claim(directory, &partial)?;
        let store = self.store(Cache::new(partial.clone()))?;
        for (index, name) in self.files.iter().enumerate() {
            let path = directory.join(name);
            if path.is_file() {
                continue;
            }
            let whole = self.obtain(&store, index)?;
            let moved = whole.canonicalize().and_then(|whole| std::fs::rename(whole, &path));
            moved.map_err(|source| Error::io(path, source))?;
        }
        std::fs::remove_dir_all(&partial).map_err(|source| Error::io(partial, source))?;
        Ok(directory.to_owned())
    }

    /// Notes in the directory which commit it is made of.
    fn claim(&self, directory: &Path, partial: &Path) -> Result<()> {
        let note = partial.join("commit");
        let wanted = format!("{} {}", self.repository, self.commit);
        let is_empty = directory.read_dir().map_or(true, |mut entries| entries.next().is_none());
        match std::fs::read_to_string(&note) {
            Ok(found) if found == wanted => return Ok(()),
            Err(_) if is_empty => {}
            Ok(found) => return Err(occupied(directory, &format!("an unfinished download of {found}"))),
            Err(_) => return Err(occupied(directory, "other files")),
        }
        let written = std::fs::create_dir_all(partial).and_then(|()| std::fs::write(&note, wanted));
        written.map_err(|source| Error::io(note, source))
    }

    fn store(&self, cache: Cache) -> Result<Store> {
        let repo = Repo::with_revision(self.repository.clone(), RepoType::Model, self.commit.clone());
        let api = api(&self.endpoint, cache.clone())?;
        Ok(Store { repo: api.repo(repo.clone()), api, cached: cache.repo(repo) })
    }

    /// Returns a file of the cache, fetched if it is not there, and checked if it was not checked before. A wrong one is removed.
    fn obtain(&self, store: &Store, index: usize) -> Result<PathBuf> {
        let name = &self.files[index];
        let (cached, note) = (store.cached.get(name), self.note(store, name));
        if let Some(path) = cached.clone().filter(|_| note.is_file()) {
            return Ok(path);
        }
        let (url, label) = (store.repo.url(name), format!("{}/{} {name}", index + 1, self.files.len()));
        let metadata = store.api.metadata(&url).map_err(|error| failed(&url, error))?;
        let path = match cached {
            Some(path) => path,
            None => fetch(&store.repo, name, &label)?,
        };
        if let Some(fault) = fault(&path, &metadata, &label).map_err(|source| Error::io(&path, source))? {
            remove(&path).map_err(|source| Error::io(&path, source))?;
            return Err(Error::io(url, io::Error::other(format!("{fault}; the same command fetches it anew"))));
        }
        // Without the note it is checked again.
        let _ = note.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| File::create(note));
        Ok(path)
    }

    /// Returns the path of the empty file that marks a file of the cache as checked. Other programs that share the cache ignore it.
    fn note(&self, store: &Store, name: &str) -> PathBuf {
        let snapshot = store.cached.pointer_path(&self.commit);
        let repository = snapshot.ancestors().nth(2).unwrap_or(&snapshot);
        repository.join("checked").join(&self.commit).join(name)
    }
}

/// Downloads a file into the cache, however often the connection breaks on the way.
fn fetch(repo: &ApiRepo, name: &str, label: &str) -> Result<PathBuf> {
    let progress = Progress::new(label.to_owned());
    loop {
        // Each attempt goes on where the last one ended. (The library's own retries can lose their place.)
        let before = progress.received();
        match repo.download_with_progress(name, progress.clone()) {
            Ok(path) => return Ok(path),
            Err(error) if progress.received() > before => {
                tracing::info!("{}: {error}; going on", repo.url(name));
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(failed(&repo.url(name), error)),
        }
    }
}

/// What is wrong with a file, by its length, and by its checksum if the hub gives one.
fn fault(path: &Path, metadata: &Metadata, label: &str) -> io::Result<Option<String>> {
    let (length, size) = (std::fs::metadata(path)?.len(), metadata.size() as u64);
    if length != size {
        return Ok(Some(format!("{length} of {size} bytes came")));
    }
    let Some(checksum) = Checksum::of_etag(metadata.etag()) else { return Ok(None) };
    let shown = bar(format!("checking {label}"), length);
    let is_right = checksum.matches(length, shown.wrap_read(File::open(path)?))?;
    shown.finish_and_clear();
    Ok((!is_right).then(|| format!("the content is corrupted: the hub gives {checksum}")))
}

/// Removes a file from the cache: the link in its snapshot, and the content that this leads to.
fn remove(path: &Path) -> io::Result<()> {
    let content = path.canonicalize()?;
    std::fs::remove_file(path)?;
    // On systems without links the content itself lies in the snapshot.
    if content.exists() { std::fs::remove_file(content) } else { Ok(()) }
}

fn occupied(directory: &Path, found: &str) -> Error {
    Error::Request(format!("{}: expected a new or empty directory, found {found}", directory.display()))
}

fn api(endpoint: &str, cache: Cache) -> Result<Api> {
    let builder = ApiBuilder::from_cache(cache).with_endpoint(endpoint.to_owned());
    // The token of the user, wherever the files go.
    let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()).or_else(|| Cache::from_env().token());
    builder.with_token(token).build().map_err(|error| failed(endpoint, error))
}

fn failed(what: &str, error: ApiError) -> Error {
    Error::io(what, io::Error::other(error))
}

/// Files that make a checkpoint: weights, configs, tokenizer, template, licence; at the top, and of no other format.
fn is_of_checkpoint(name: &str) -> bool {
    let ends = [".safetensors", ".json", ".jinja"];
    let named = ["merges.txt", "LICENSE", "README.md"];
    !name.contains(['/', '\\'])
        && !name.starts_with('.')
        && (ends.iter().any(|end| name.ends_with(end)) || named.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_makes_a_checkpoint_is_fetched() {
        for name in ["model-00001-of-00015.safetensors", "config.json", "merges.txt", "chat_template.jinja", "LICENSE"]
        {
            assert!(is_of_checkpoint(name), "{name}");
        }
        for name in
            [".gitattributes", "pytorch_model.bin", "figures/a.json", "../config.json", "..\\config.json", "demo.mp4"]
        {
            assert!(!is_of_checkpoint(name), "{name}");
        }
    }
}
