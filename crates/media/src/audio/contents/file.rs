//! Random access to the bytes of a sound, in a file or in memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use crate::reason::Reason;
use crate::{MediaError, Result, Source};

/// A file or bytes, of which any part can be read.
#[derive(Debug)]
pub(crate) struct Contents {
    inner: Inner,
    len: u64,
    origin: String,
}

#[derive(Debug)]
enum Inner {
    File(File),
    Bytes(Arc<[u8]>),
}

impl Contents {
    /// Opens a source without reading it.
    ///
    /// # Errors
    /// [`MediaError`] if it cannot be opened or is no file.
    pub(crate) fn open(source: &Source) -> Result<Self> {
        let (origin, len) = (source.origin(), source.check()?);
        let inner = match source {
            Source::Path(path) => {
                let file = File::open(path).map_err(|source| MediaError::Io { path: path.clone(), source })?;
                Inner::File(file)
            }
            Source::Bytes(bytes) => Inner::Bytes(bytes.clone()),
        };
        Ok(Self { inner, len, origin })
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Reads into `buffer` from `offset` on; returns the number of bytes, which is 0 only at the end.
    pub(super) fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                (&bytes[start..]).read(buffer)
            }
            Inner::File(file) => {
                file.seek(SeekFrom::Start(offset))?;
                file.read(buffer)
            }
        }
    }

    /// Up to `count` bytes from `offset` on; fewer only at the end.
    ///
    /// # Errors
    /// [`MediaError::Damaged`] if the file cannot be read.
    pub(crate) fn bytes(&mut self, offset: u64, count: usize) -> Result<Vec<u8>> {
        let left = self.len.saturating_sub(offset);
        let mut bytes = vec![0; count.min(usize::try_from(left).unwrap_or(usize::MAX))];
        let mut filled = 0;
        while filled < bytes.len() {
            let read = self.read_at(offset + filled as u64, &mut bytes[filled..]);
            match read {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(MediaError::damaged(&self.origin, error)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// The bytes `offset..offset + N`, if all of them are there.
    ///
    /// # Errors
    /// The errors of [`Contents::bytes`].
    pub(crate) fn array<const N: usize>(&mut self, offset: u64) -> Result<Option<[u8; N]>> {
        Ok(self.bytes(offset, N)?.try_into().ok())
    }

    pub(super) fn damaged(&self, reason: impl Into<Reason>) -> MediaError {
        MediaError::damaged(&self.origin, reason)
    }

    pub(super) fn unusable(&self, reason: impl Into<Reason>) -> MediaError {
        MediaError::unusable(&self.origin, reason)
    }

    pub(super) fn unsupported(&self, reason: impl Into<Reason>) -> MediaError {
        MediaError::unsupported(&self.origin, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_can_be_read_and_beyond_the_end_is_nothing() {
        let mut abc = Contents::open(&Source::from(&b"abcdef"[..])).unwrap();
        assert_eq!(abc.bytes(2, 3).unwrap(), b"cde");
        assert_eq!(abc.bytes(4, usize::MAX).unwrap(), b"ef");
        assert!(abc.bytes(u64::MAX, 3).unwrap().is_empty());
        assert_eq!(abc.array::<4>(4).unwrap(), None);
    }
}
