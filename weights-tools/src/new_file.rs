//! Files that are there whole or not at all, also after a power failure.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use omni_core::{Error, Result};

/// A file under a temporary name beside its final one. It is removed when it is dropped before it was [kept](Self::keep).
#[derive(Debug)]
pub(crate) struct NewFile {
    file: Option<File>,
    partial: PathBuf,
    path: PathBuf,
}

impl NewFile {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let partial = partial(path);
        let file = File::create(&partial).map_err(|source| Error::io(&partial, source))?;
        Ok(Self { file: Some(file), partial, path: path.to_owned() })
    }

    pub(crate) fn write_at(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        let mut file = self.file.as_ref().expect("the file is open until it is kept");
        file.seek(SeekFrom::Start(position))
            .and_then(|_| file.write_all(bytes))
            .map_err(|source| Error::io(&self.partial, source))
    }

    /// Gives the file its final name, in place of what had it; both are on the disk when this returns.
    pub(crate) fn keep(mut self) -> Result<()> {
        let file = self.file.take().expect("the file is open until it is kept");
        let renamed = file.sync_all().map_err(|source| Error::io(&self.partial, source)).and_then(|()| {
            drop(file);
            std::fs::rename(&self.partial, &self.path).map_err(|source| Error::io(&self.path, source))
        });
        if renamed.is_err() {
            let _ = std::fs::remove_file(&self.partial);
        }
        renamed?;
        sync_directory(self.path.parent().unwrap_or(Path::new("")))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Windows removes no open file. If it cannot be removed, the next run writes over it.
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// Replaces a file: it holds either the old bytes or the new ones, never a part.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NewFile::create(path)?;
    file.write_at(0, bytes)?;
    file.keep()
}

/// The name of a file while it is written.
pub(crate) fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Puts names that were made, changed or removed in a directory on the disk.
#[cfg(unix)]
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(|source| Error::io(directory, source))
}

/// Elsewhere directories cannot be opened as files; the file system keeps its own order.
#[cfg(not(unix))]
pub(crate) fn sync_directory(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_an_unfinished_one_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let [path, link] = ["config.json", "old"].map(|name| directory.path().join(name));
        std::fs::write(&path, "old").unwrap();
        std::fs::hard_link(&path, &link).unwrap();
        replace(&path, b"new").unwrap();
        // Written over in place, the other name would show the new bytes too.
        assert_eq!(["new", "old"], [&path, &link].map(|path| std::fs::read_to_string(path).unwrap()).each_ref());
        let mut unfinished = NewFile::create(&path).unwrap();
        unfinished.write_at(0, b"half").unwrap();
        assert!(partial(&path).exists());
        drop(unfinished);
        assert!(!partial(&path).exists());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        // A file that cannot be renamed leaves nothing either.
        let occupied = directory.path().join("directory");
        std::fs::create_dir_all(occupied.join("inside")).unwrap();
        assert!(replace(&occupied, b"new").unwrap_err().to_string().contains("directory"));
        assert!(!partial(&occupied).exists());
    }
}
