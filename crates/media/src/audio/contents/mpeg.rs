//! MPEG audio without a container: layers 1 to 3, and AAC in ADTS frames.
//!
//! Their sync word is so short that it is found in any file; only a row of frames, each where the one before it ends, proves what
//! a file is.

use super::file::Contents;
use super::kind::{KNOWN, Kind};
use super::view::View;
use crate::Result;

/// Frames in a row that prove the kind where the file begins with one, and where something else comes first.
const FRAMES: [usize; 2] = [2, 4];

/// Makes the view from the first frame to the tags at the end.
///
/// # Errors
/// [`crate::MediaError::Unsupported`] if there are no frames.
pub(super) fn view(mut contents: Contents, start: u64, head: &[u8]) -> Result<(View, Kind)> {
    let end = before_tags(&mut contents, start)?;
    let whole = head.len() as u64 == contents.len() - start;
    let head = &head[..head.len().min((end - start) as usize)];
    let first = (0..head.len()).find(|at| is_row(&head[*at..], FRAMES[usize::from(*at > 0)], whole));
    let Some(first) = first else {
        return Err(contents.unsupported(format!("the contents are no sound, or truncated: {KNOWN}")));
    };
    let kind = if Frame::read(&head[first..]).is_some_and(|frame| frame.adts) {
        Kind::Other
    } else {
        let frame = &head[first..head.len().min(first + 1500)];
        let tag = |tag: &[u8; 4]| frame.windows(4).any(|window| window == tag);
        Kind::Mpeg { states_length: [b"Xing", b"Info", b"VBRI"].into_iter().any(tag) }
    };
    Ok((View::behind(Vec::new(), contents, start + first as u64..end), kind))
}

/// Whether `count` frames lie in a row, or fewer up to the end of the file.
fn is_row(bytes: &[u8], count: usize, whole: bool) -> bool {
    let Some(first) = Frame::read(bytes) else { return false };
    let mut at = 0;
    for number in 0..count {
        match bytes.get(at..).and_then(Frame::read) {
            Some(frame) if frame.same_stream(&first) => at += frame.length,
            // A cut last frame is no frame of another stream.
            None if whole && number > 0 && at + 4 >= bytes.len() => return true,
            _ => return false,
        }
    }
    true
}

/// What a frame's header tells.
#[derive(Debug, PartialEq)]
struct Frame {
    adts: bool,
    /// The bits that do not change within a stream.
    stream: u32,
    /// Bytes up to the next frame.
    length: usize,
}

impl Frame {
    fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, d, ..] = *bytes else { return None };
        if a != 0xff || b & 0xe0 != 0xe0 {
            return None;
        }
        if b & 0xf6 == 0xf0 { Self::adts([b, c, d], bytes) } else { Self::layers([b, c]) }
    }

    fn same_stream(&self, other: &Self) -> bool {
        (self.adts, self.stream) == (other.adts, other.stream)
    }

    fn adts([b, c, d]: [u8; 3], bytes: &[u8]) -> Option<Self> {
        let &[e, f, ..] = bytes.get(4..)? else { return None };
        let length = usize::from(d & 3) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
        let rate = c >> 2 & 15;
        (rate < 13 && length > 7).then_some(Self {
            adts: true,
            stream: u32::from(b & 0xfe) << 8 | u32::from(c & 0xfc),
            length,
        })
    }

    fn layers([b, c]: [u8; 2]) -> Option<Self> {
        let (version, layer) = (b >> 3 & 3, 4 - (b >> 1 & 3));
        let (rate_index, bitrate_index) = (usize::from(c >> 2 & 3), usize::from(c >> 4));
        // A version, layer or rate of the reserved value, or a free bitrate.
        if version == 1 || layer == 4 || rate_index == 3 || matches!(bitrate_index, 0 | 15) {
            return None;
        }
        let first = version == 3;
        let rate = rate([b, c]) as usize;
        let kbits = usize::from(BITRATES[bitrate_table(first, layer)][bitrate_index]);
        let padding = usize::from(c >> 1 & 1);
        let length = match layer {
            1 => (12_000 * kbits / rate + padding) * 4,
            3 if !first => 72_000 * kbits / rate + padding,
            _ => 144_000 * kbits / rate + padding,
        };
        Some(Self { adts: false, stream: u32::from(b & 0xfe) << 8 | u32::from(c & 0x0c), length })
    }
}

/// The rate and the number of channels that a frame of layer 1, 2 or 3 tells.
pub(crate) fn rate_and_channels(frame: &[u8]) -> Option<(u32, usize)> {
    let [_, b, c, d, ..] = *frame else { return None };
    Frame::layers([b, c])?;
    const MONO: u8 = 3;
    Some((rate([b, c]), if d >> 6 == MONO { 1 } else { 2 }))
}

/// Samples per second, for a header whose version and rate are not of the reserved values.
fn rate([b, c]: [u8; 2]) -> u32 {
    // MPEG-2 has half the rates, MPEG-2.5 a quarter.
    let halved = [2, 0, 1, 0][usize::from(b >> 3 & 3)];
    [44_100, 48_000, 32_000, 0][usize::from(c >> 2 & 3)] >> halved
}

fn bitrate_table(first: bool, layer: u8) -> usize {
    match (first, layer) {
        (true, layer) => usize::from(layer) - 1,
        (false, 1) => 3,
        (false, _) => 4,
    }
}

/// Kilobits per second: layers 1 to 3 of MPEG-1; layer 1, then layers 2 and 3 of MPEG-2 and 2.5.
const BITRATES: [[u16; 16]; 5] = [
    [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 0],
    [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0],
    [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0],
    [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 0],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0],
];

/// Where the tags at the end of the file begin (ID3v1 and APE), in which sync words could be found.
fn before_tags(contents: &mut Contents, start: u64) -> Result<u64> {
    let mut end = contents.len();
    let id3 = end.saturating_sub(128);
    if id3 > start && contents.array::<3>(id3)? == Some(*b"TAG") {
        end = id3;
    }
    let footer = contents.array::<16>(end.saturating_sub(32))?.unwrap_or_default();
    if let Some([a, b, c, d]) = footer.strip_prefix(b"APETAGEX").and_then(|rest| rest.last_chunk::<4>()) {
        // The size leaves out the header of the tag.
        let size = u64::from(u32::from_le_bytes([*a, *b, *c, *d])) + 32;
        end = end.checked_sub(size).filter(|before| *before > start).unwrap_or(end);
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_length_of_their_header() {
        // MPEG-1 layer 3, 128 kbit/s, 44.1 kHz; MPEG-2 layer 3, 64 kbit/s, 22.05 kHz; MPEG-2.5, 16 kbit/s, 8 kHz; layer 2, 192.
        for (header, length) in [
            ([0xff, 0xfb, 0x90, 0], 417),
            ([0xff, 0xfb, 0x92, 0], 418),
            ([0xff, 0xf3, 0x80, 0], 208),
            ([0xff, 0xe3, 0x28, 0], 144),
            ([0xff, 0xfd, 0xa4, 0], 576),
        ] {
            assert_eq!(Frame::read(&header).unwrap().length, length, "{header:x?}");
        }
        for header in [[0xff, 0xff, 0xff, 0xff], [0xff, 0xfb, 0, 0], [0xff, 0xeb, 0x90, 0], [0, 0, 0, 0]] {
            assert_eq!(Frame::read(&header), None, "{header:x?}");
        }
        let adts = Frame::read(&[0xff, 0xf1, 0x60, 0x40, 0x10, 0x1f, 0xfc]).unwrap();
        assert_eq!((adts.adts, adts.length), (true, 128));
    }

    #[test]
    fn one_sync_word_is_no_stream() {
        let mut bytes = vec![0; 4000];
        bytes[..4].copy_from_slice(&[0xff, 0xfb, 0x90, 0]);
        assert!(!is_row(&bytes, 2, true));
        bytes[417..421].copy_from_slice(&[0xff, 0xfb, 0x90, 0]);
        assert!(is_row(&bytes, 2, true));
        assert!(!is_row(&bytes, 4, true));
        assert!(is_row(&bytes[..417], 4, true));
    }
}
