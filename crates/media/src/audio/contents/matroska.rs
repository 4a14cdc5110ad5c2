//! What Matroska and WebM files say about their end.

use super::file::Contents;
use crate::Result;

/// How a file ends.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Ending {
    /// The length was not known when the file was begun, as in a browser's recording: it ends where the recording ended.
    pub(crate) live: bool,
    /// Nanoseconds at the end of the last packet that are not heard.
    pub(crate) padding: u64,
}

/// Most elements that are looked at: days of sound.
const MOST: usize = 1 << 24;

/// An element: its name and where its contents lie; without an end if its size is not stated.
struct Element {
    name: u32,
    body: u64,
    end: Option<u64>,
}

const HEADER: u32 = 0x1a45_dfa3;
const SEGMENT: u32 = 0x1853_8067;
const CLUSTER: u32 = 0x1f43_b675;
const GROUP: u32 = 0xa0;
const SIMPLE_BLOCK: u32 = 0xa3;
const DISCARD_PADDING: u32 = 0x75a2;

impl Ending {
    /// Walks over the elements of a file that begins at `start`, from header to header.
    ///
    /// # Errors
    /// [`crate::MediaError::Damaged`] if the file cannot be read.
    pub(super) fn read(contents: &mut Contents, start: u64) -> Result<Self> {
        let mut ending = Self::default();
        let mut at = start;
        for _ in 0..MOST {
            let Some(Element { name, body, end }) = contents.element(at)? else { break };
            at = match (name, end) {
                (SEGMENT, end) => {
                    ending.live = end.is_none();
                    body
                }
                (CLUSTER | GROUP, _) => body,
                (HEADER, None) => break,
                (_, Some(end)) => end,
                (_, None) => break,
            };
            match name {
                SIMPLE_BLOCK | GROUP => ending.padding = 0,
                DISCARD_PADDING => ending.padding = padding(&contents.bytes(body, (at - body).min(8) as usize)?),
                _ => (),
            }
        }
        Ok(ending)
    }
}

impl Contents {
    fn element(&mut self, at: u64) -> Result<Option<Element>> {
        let head = self.bytes(at, 12)?;
        let Some((name, name_length)) = number(&head, true) else { return Ok(None) };
        let Some((size, size_length)) = number(&head[name_length..], false) else { return Ok(None) };
        let body = at + (name_length + size_length) as u64;
        let unknown = size == (1 << (7 * size_length)) - 1;
        let end = (!unknown).then(|| body.saturating_add(size));
        Ok(u32::try_from(name).ok().map(|name| Element { name, body, end }))
    }
}

/// A number of variable length and the bytes that it takes; the bit that tells its length is part of a name.
fn number(bytes: &[u8], keep_marker: bool) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = first.leading_zeros() as usize + 1;
    let whole = bytes.get(..length)?;
    let value = whole.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let mask = if keep_marker { u64::MAX } else { (1 << (7 * length)) - 1 };
    Some((value & mask, length))
}

/// A signed length; a negative one would pad the start.
fn padding(bytes: &[u8]) -> u64 {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    if negative { 0 } else { bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;

    fn ending(segment: &[u8], clusters: &[u8]) -> Ending {
        let file = [b"\x1a\x45\xdf\xa3\x82xx\x18\x53\x80\x67", segment, clusters].concat();
        Ending::read(&mut Contents::open(&Source::from(file)).unwrap(), 0).unwrap()
    }

    #[test]
    fn a_recording_has_no_length_and_the_last_block_tells_its_padding() {
        const UNKNOWN: &[u8] = b"\x01\xff\xff\xff\xff\xff\xff\xff";
        let cluster = b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff\xe7\x81\0";
        let block = b"\xa3\x85\x81\0\0\x80x";
        let group = b"\xa0\x8d\xa1\x85\x81\0\0\0x\x75\xa2\x83\x01\0\0";
        let live = ending(UNKNOWN, &[cluster.as_slice(), block, group].concat());
        assert_eq!(live, Ending { live: true, padding: 65_536 });
        let more = ending(b"\xa0", &[cluster.as_slice(), group, block].concat());
        assert_eq!(more, Ending { live: false, padding: 0 });
    }
}
