//! A part of a file behind a header that was made for it.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Mutex;

use symphonia::core::io::MediaSource;

use super::file::Contents;

/// What a decoder reads: bytes put in front, then a part of the contents, which is never held in memory as a whole.
#[derive(Debug)]
pub(crate) struct View {
    head: Vec<u8>,
    contents: Mutex<Contents>,
    /// Offsets of the part in the contents.
    part: std::ops::Range<u64>,
    at: u64,
}

impl View {
    /// Everything from `start` on.
    pub(super) fn of(contents: Contents, start: u64) -> Self {
        let end = contents.len();
        Self::behind(Vec::new(), contents, start..end)
    }

    /// A part of the contents behind `head`.
    pub(super) fn behind(head: Vec<u8>, contents: Contents, part: std::ops::Range<u64>) -> Self {
        Self { head, contents: Mutex::new(contents), part, at: 0 }
    }

    fn len(&self) -> u64 {
        self.head.len() as u64 + self.part.end.saturating_sub(self.part.start)
    }

    /// The contents that are viewed.
    pub(crate) fn contents(&mut self) -> &mut Contents {
        self.contents.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Read for View {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let head = usize::try_from(self.at).ok().and_then(|at| self.head.get(at..)).unwrap_or_default();
        let read = if head.is_empty() {
            let room = buffer.len().min(usize::try_from(self.len().saturating_sub(self.at)).unwrap_or(usize::MAX));
            let offset = self.part.start + (self.at - self.head.len() as u64);
            self.contents().read_at(offset, &mut buffer[..room])?
        } else {
            (&mut &*head).read(buffer)?
        };
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for View {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?.min(self.len());
        Ok(self.at)
    }
}

impl MediaSource for View {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;

    #[test]
    fn the_header_and_the_part_are_one_stream() {
        let contents = Contents::open(&Source::from(&b"0123456789"[..])).unwrap();
        let mut view = View::behind(b"head".to_vec(), contents, 3..7);
        let mut all = String::new();
        view.read_to_string(&mut all).unwrap();
        assert_eq!(all, "head3456");
        assert_eq!(view.byte_len(), Some(8));
        for (to, rest) in [(SeekFrom::Start(2), "ad3456"), (SeekFrom::End(-3), "456"), (SeekFrom::Current(9), "")] {
            view.seek(to).unwrap();
            let mut text = String::new();
            view.read_to_string(&mut text).unwrap();
            assert_eq!(text, rest);
        }
        assert!(view.seek(SeekFrom::End(-9)).is_err());
    }
}
