//! What a sound file is, told by its first bytes, and the part of it that a decoder is given.

mod aiff;
mod au;
mod chunk;
mod edits;
mod file;
mod kind;
mod matroska;
mod mpeg;
mod view;
mod wave;

pub(super) use edits::{Edits, Part};
pub(super) use file::Contents;
pub(super) use kind::{KNOWN, Kind};
use matroska::Ending;
pub(super) use mpeg::rate_and_channels;
pub(super) use view::View;

use crate::Result;

/// Bytes at the start that tell what a file is.
const HEAD: usize = 1 << 16;

/// Finds out what a file is, and the view of it that a decoder takes: without tags in front, and with a header that tells the true
/// length where the file's own does not.
///
/// # Errors
/// [`crate::MediaError::Unsupported`] for what is not read here; [`crate::MediaError::Damaged`] if samples that are announced are missing.
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
    use crate::Source;

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
}
