//! A source as a file that ffmpeg can open.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{MediaError, Result, Source};

/// A file for ffmpeg; a temporary one is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Input {
    /// What the source is called in messages.
    pub(crate) origin: String,
    path: PathBuf,
    temporary: bool,
}

impl Input {
    pub(crate) fn new(source: &Source) -> Result<Self> {
        let origin = source.origin();
        source.check()?;
        refuse_lists(source, &origin)?;
        match source {
            Source::Path(path) => Ok(Self { origin, path: path.clone(), temporary: false }),
            // Some formats keep their tables at the end, so that a pipe would not do.
            Source::Bytes(bytes) => {
                let (mut file, path) = temporary(&std::env::temp_dir())?;
                let input = Self { origin, path, temporary: true };
                file.write_all(bytes).map_err(|error| input.unreadable(error))?;
                Ok(input)
            }
        }
    }

    /// The name with its protocol, so that it is taken for nothing but a file.
    pub(crate) fn argument(&self) -> OsString {
        let mut argument = OsString::from("file:");
        argument.push(&self.path);
        argument
    }

    pub(crate) fn unreadable(&self, source: io::Error) -> MediaError {
        MediaError::Io { path: self.path.clone(), source }
    }
}

/// Refuses text that names other files, with a clear message; what hides behind other bytes is refused by the list of formats.
fn refuse_lists(source: &Source, origin: &str) -> Result<()> {
    const HEAD: u64 = 1024;
    const LISTS: [&[u8]; 5] = [b"#EXTM3U", b"ffconcat", b"<", b"[playlist]", b"v=0"];
    let mut head = Vec::new();
    match source {
        Source::Bytes(bytes) => head.extend(bytes.iter().take(HEAD as usize)),
        Source::Path(path) => {
            let read = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
            read.map_err(|source| MediaError::Io { path: path.clone(), source })?;
        }
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).trim_ascii_start();
    let blank = text.is_empty() && !head.is_empty();
    if blank || LISTS.iter().any(|list| text.starts_with(list)) {
        return Err(MediaError::unsupported(origin, "this is text that names other files, not sound or video"));
    }
    Ok(())
}

impl Drop for Input {
    fn drop(&mut self) {
        if self.temporary {
            // There is nobody to report a failed removal to.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Creates a file under a name that no other process or thread has.
fn temporary(folder: &Path) -> Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("qwen3-omni-{}-{number}.media", std::process::id()));
        match options.open(&path) {
            Ok(file) => return Ok((file, path)),
            // Left over by an earlier process of the same id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            Err(source) => return Err(MediaError::Io { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_in_a_file_as_long_as_they_are_needed() {
        let source = Source::from(&b"abc"[..]);
        let (one, two) = (Input::new(&source).unwrap(), Input::new(&source).unwrap());
        let path = one.path.clone();
        assert_ne!(path, two.path);
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        drop(one);
        assert!(!path.exists());
    }

    #[test]
    fn a_name_is_no_option_and_a_missing_file_is_named() {
        let error = Input::new(&Source::from("-nothing.avi")).unwrap_err().to_string();
        assert!(error.starts_with("-nothing.avi: "), "{error}");
        let input = Input { origin: String::new(), path: "-i".into(), temporary: false };
        assert_eq!(input.argument(), "file:-i");
    }
}
