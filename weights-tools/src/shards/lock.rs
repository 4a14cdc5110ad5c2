//! One writer per directory.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use omni_core::{Error, Result};
use same_file::Handle;

/// The file whose lock is held while a directory is written. The operating system releases it when the process ends, however it ends.
pub(crate) const LOCK: &str = "weights-tools.lock";

/// The right to write into a directory, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    /// Holds the lock.
    _file: Handle,
}

impl Lock {
    /// Locks a directory.
    ///
    /// # Errors
    /// [`Error::Request`] while another process or thread holds the lock, [`Error::Io`] if the file cannot be made or locked.
    pub(super) fn take(directory: &Path) -> Result<Self> {
        let path = directory.join(LOCK);
        loop {
            let file = open_locked(directory, &path)?;
            let file = Handle::from_file(file).map_err(|source| Error::io(&path, source))?;
            // The run before removes the file when it ends: a lock on a removed file keeps nobody out.
            if Handle::from_path(&path).is_ok_and(|found| found == file) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

fn open_locked(directory: &Path, path: &Path) -> Result<File> {
    let file = File::options().create(true).write(true).truncate(false).open(path);
    let file = file.map_err(|source| Error::io(path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(source)) => Err(Error::io(path, source)),
        Err(TryLockError::WouldBlock) => Err(Error::Request(format!(
            "{}: another command is writing into this directory (it holds the lock of {LOCK}); wait until it has ended, or \
             name another directory",
            directory.display()
        ))),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while the lock is held, so that it is never the file of another run.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_a_file_left_behind_locks_nothing() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(LOCK), "left by a killed process").unwrap();
        let lock = Lock::take(directory.path()).unwrap();
        let message = Lock::take(directory.path()).unwrap_err().to_string();
        assert!(message.contains(&directory.path().display().to_string()) && message.contains(LOCK), "{message}");
        drop(lock);
        assert!(!directory.path().join(LOCK).exists());
        Lock::take(directory.path()).unwrap();
    }

    #[test]
    fn of_many_threads_one_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let held = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let Ok(_lock) = Lock::take(directory.path()) else { continue };
                        assert_eq!(held.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        held.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
