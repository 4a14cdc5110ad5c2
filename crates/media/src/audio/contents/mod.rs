//! What a sound file is, told by its first bytes, and the part of it that a decoder is given.

mod aiff;
mod au;
mod edits;
mod matroska;
mod mpeg;
mod view;
mod wave;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

pub(super) use edits::{Edits, Part};
use matroska::Ending;
pub(super) use mpeg::rate_and_channels;
pub(super) use view::View;

use crate::{MediaError, Result, Source};

/// Bytes at the start that tell what a file is.
const HEAD: usize = 1 << 16;

/// The kinds of file, as far as they are treated differently.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Flac,
    /// Matroska or WebM, with how it ends.
    Matroska(Ending),
    Mp4,
    /// MPEG audio of layer 1, 2 or 3, with whether it states its length.
    Mpeg {
        states_length: bool,
    },
    Ogg,
    Other,
}

/// A file or bytes, of which any part can be read.
#[derive(Debug)]
pub(super) struct Contents {
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
    pub(super) fn open(source: &Source) -> Result<Self> {
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
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Reads into `buffer` from `offset` on; returns the number of bytes, which is 0 only at the end.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
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
    pub(super) fn bytes(&mut self, offset: u64, count: usize) -> Result<Vec<u8>> {
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
    pub(super) fn array<const N: usize>(&mut self, offset: u64) -> Result<Option<[u8; N]>> {
        Ok(self.bytes(offset, N)?.try_into().ok())
    }

    fn damaged(&self, reason: impl std::fmt::Display) -> MediaError {
        MediaError::damaged(&self.origin, reason)
    }

    fn unsupported(&self, reason: impl std::fmt::Display) -> MediaError {
        MediaError::unsupported(&self.origin, reason)
    }
}

/// Whether a header's size stands for "unknown": 2 or 4 GiB, less what a program subtracts for headers or rounds to whole blocks.
///
/// A file that has as much is taken at its word; this is for those that are shorter.
fn is_unknown(size: u64) -> bool {
    matches!(size, 0x7fff_0000..=0x8000_0100 | 0xffff_0000..=0xffff_ffff)
}

/// Whether four bytes may be the name of a chunk.
fn is_name(name: &[u8; 4]) -> bool {
    name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b' ')
}

/// Message for what is not read here.
pub(super) const KNOWN: &str = "expected WAV, FLAC, MP3 (or MP1, MP2), OGG, M4A, WebM, Matroska, AIFF, AU or CAF with a codec that is decoded here";

/// Finds out what a file is, and the view of it that a decoder takes: without tags in front, and with a header that tells the true
/// length where the file's own does not.
///
/// # Errors
/// [`MediaError::Unsupported`] for what is not read here; [`MediaError::Damaged`] if samples that are announced are missing.
pub(super) fn recognise(mut contents: Contents) -> Result<(View, Kind)> {
    let start = after_tags(&mut contents)?;
    let head = contents.bytes(start, HEAD)?;
    let whole = |contents: Contents, kind| Ok((View::of(contents, start), kind));
    match *head {
        [b'R', b'I' | b'F', b'F' | b'6', b'F' | b'4', _, _, _, _, b'W', b'A', b'V', b'E', ..]
        | [b'B', b'W', b'6', b'4', _, _, _, _, b'W', b'A', b'V', b'E', ..] => wave::view(contents, start),
        [b'F', b'O', b'R', b'M', _, _, _, _, b'A', b'I', b'F', b'F' | b'C', ..] => aiff::view(contents, start),
        [b'.', b's', b'n', b'd', ..] => au::view(contents, start),
        [b'f', b'L', b'a', b'C', ..] => whole(contents, Kind::Flac),
        [b'O', b'g', b'g', b'S', ..] => whole(contents, Kind::Ogg),
        [b'c', b'a', b'f', b'f', ..] => whole(contents, Kind::Other),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => {
            let ending = Ending::read(&mut contents, start)?;
            whole(contents, Kind::Matroska(ending))
        }
        _ if is_mp4(&head) => whole(contents, Kind::Mp4),
        _ if is_transport_stream(&head) => Err(contents.unsupported("this is an MPEG transport stream")),
        _ => mpeg::view(contents, start, &head),
    }
}

/// Where ID3v2 tags in front of the sound end.
fn after_tags(contents: &mut Contents) -> Result<u64> {
    let mut start = 0;
    while let Some([b'I', b'D', b'3', _, _, flags, size @ ..]) = contents.array::<10>(start)? {
        let size = size.iter().fold(0, |size, byte| size << 7 | u64::from(byte & 0x7f));
        const FOOTER: u8 = 0x10;
        start += 10 + size + if flags & FOOTER == 0 { 0 } else { 10 };
        if start > contents.len() {
            return Err(contents.damaged("the tag in front of the sound is longer than the file: truncated?"));
        }
    }
    Ok(start)
}

fn is_mp4(head: &[u8]) -> bool {
    const FIRST: [&[u8; 4]; 10] =
        [b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"sidx"];
    head.get(4..8).is_some_and(|name| FIRST.iter().any(|known| known.as_slice() == name))
}

/// Whether packets of 188 bytes (192 with a time in front, 204 with a checksum behind) begin with their sync byte.
fn is_transport_stream(head: &[u8]) -> bool {
    const PACKETS: usize = 4;
    let has_sync =
        |start: usize, packet: usize| (0..PACKETS).all(|number| head.get(start + number * packet) == Some(&0x47));
    // A recording may begin inside a packet.
    [188, 192, 204].iter().any(|packet| (0..*packet).any(|start| has_sync(start, *packet)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(bytes: &[u8]) -> Contents {
        Contents::open(&Source::from(bytes)).unwrap()
    }

    #[test]
    fn any_number_of_tags_is_passed_over() {
        let tag = b"ID3\x04\0\x10\0\0\x01\x02".as_slice();
        let one = [tag, &[0; 130], &[0; 10]].concat();
        assert_eq!(after_tags(&mut contents(&[one.as_slice(), &one, b"fLaC"].concat())).unwrap(), 300);
        assert_eq!(after_tags(&mut contents(b"fLaC")).unwrap(), 0);
        assert!(after_tags(&mut contents(b"ID3\x04\0\0\0\0\x01\x02")).unwrap_err().to_string().contains("truncated"));
    }

    #[test]
    fn transport_streams_are_known_by_their_sync_bytes() {
        for (start, packet) in [(0, 188), (4, 192), (100, 188), (0, 204)] {
            let mut bytes = vec![0xff; start + 5 * packet];
            (0..5).for_each(|number| bytes[start + number * packet] = 0x47);
            assert!(is_transport_stream(&bytes), "{start} {packet}");
        }
        assert!(!is_transport_stream(&[0xff; 2000]));
        assert!(!is_transport_stream(&[0x47; 100]));
    }

    #[test]
    fn any_part_can_be_read_and_beyond_the_end_is_nothing() {
        let mut abc = contents(b"abcdef");
        assert_eq!(abc.bytes(2, 3).unwrap(), b"cde");
        assert_eq!(abc.bytes(4, usize::MAX).unwrap(), b"ef");
        assert!(abc.bytes(u64::MAX, 3).unwrap().is_empty());
        assert_eq!(abc.array::<4>(4).unwrap(), None);
    }
}
