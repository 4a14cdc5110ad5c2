//! WAV and its kin of 64-bit sizes (RF64, BW64), as recorders, pipes and editors write them.
//!
//! The samples lie in one chunk; a new header with its true size goes in front of it. So neither the sizes of a recorder that
//! died, nor lists that break the rules of padding, nor unknown chunks matter.

use super::chunk::{is_name, is_unknown};
use super::file::Contents;
use super::kind::Kind;
use super::view::View;
use crate::Result;

/// Most bytes of a format chunk: an extensible one has 40, those with coefficients some more.
const MOST_FORMAT: u64 = 1 << 12;

/// Most chunks in front of the samples.
const MOST_CHUNKS: usize = 1 << 12;

/// Makes the view of the samples, behind a header that tells their true size.
///
/// # Errors
/// [`crate::MediaError::Damaged`] without format or samples, or if the file states how long it is and is shorter.
pub(super) fn view(mut contents: Contents, start: u64) -> Result<(View, Kind)> {
    let chunks = Chunks::walk(&mut contents, start)?;
    let missing = |what| contents.damaged(format!("the WAV file has no {what}: truncated?"));
    let format = chunks.format.ok_or_else(|| missing("format"))?;
    let (data, stated) = chunks.data.ok_or_else(|| missing("samples"))?;
    let there = contents.len() - data;
    let size = match stated {
        Some(stated) if stated > there => {
            let reason = format!("{stated} bytes of samples are promised, but only {there} are there: truncated?");
            return Err(contents.damaged(reason));
        }
        Some(stated) => stated,
        None => there,
    };
    let head = header(&format, size);
    Ok((View::behind(head, contents, data..data + size), Kind::Other))
}

/// A header for one chunk of samples.
fn header(format: &[u8], size: u64) -> Vec<u8> {
    let frame = 20 + format.len() as u64;
    // What cannot be expressed is "up to the end".
    let [riff, size] = match u32::try_from(size + frame) {
        Ok(riff) => [riff, size as u32],
        Err(_) => [u32::MAX; 2],
    };
    let length = format.len() as u32;
    let parts: [&[u8]; 7] =
        [b"RIFF", &riff.to_le_bytes(), b"WAVEfmt ", &length.to_le_bytes(), format, b"data", &size.to_le_bytes()];
    parts.concat()
}

/// What lies in front of the samples.
#[derive(Debug, Default)]
struct Chunks {
    format: Option<Vec<u8>>,
    /// Where the samples begin and what size is stated, if one is.
    data: Option<(u64, Option<u64>)>,
}

impl Chunks {
    fn walk(contents: &mut Contents, start: u64) -> Result<Self> {
        let mut chunks = Self::default();
        let mut wide = None;
        let mut at = start + 12;
        for _ in 0..MOST_CHUNKS {
            let Some([a, b, c, d, size @ ..]) = contents.array::<8>(at)? else { break };
            let (name, size, body) = ([a, b, c, d], u64::from(u32::from_le_bytes(size)), at + 8);
            match &name {
                b"ds64" => {
                    wide = contents
                        .array::<16>(body)?
                        .map(|[.., a, b, c, d, e, f, g, h]| u64::from_le_bytes([a, b, c, d, e, f, g, h]))
                }
                b"fmt " => chunks.format = Some(contents.bytes(body, size.min(MOST_FORMAT) as usize)?),
                b"data" => {
                    chunks.data = Some((body, stated(contents, start, body, size, wide)?));
                    break;
                }
                _ => (),
            }
            at = next_chunk(contents, body.saturating_add(size), size)?;
        }
        Ok(chunks)
    }
}

/// The size of the samples, where the file tells it.
fn stated(contents: &mut Contents, start: u64, body: u64, size: u64, wide: Option<u64>) -> Result<Option<u64>> {
    let size = match wide {
        Some(wide) if size == u64::from(u32::MAX) => wide,
        _ => size,
    };
    let there = contents.len() - body;
    let unknown = match size {
        0 => !is_closed(contents, start, body)?,
        u64::MAX => true,
        _ => size > there && is_unknown(size),
    };
    Ok((!unknown).then_some(size))
}

/// Whether a file of no samples was finished: its own size is right, and what follows is another chunk.
fn is_closed(contents: &mut Contents, start: u64, body: u64) -> Result<bool> {
    let riff = contents.array::<4>(start + 4)?.map_or(0, u32::from_le_bytes);
    let whole = start + 8 + u64::from(riff) == contents.len();
    let next = contents.array::<4>(body)?;
    Ok(whole && next.is_none_or(|name| is_name(&name)))
}

/// Where the chunk after one that ends at `end` begins: behind a byte of padding if its size is odd, which some programs omit.
fn next_chunk(contents: &mut Contents, end: u64, size: u64) -> Result<u64> {
    if size.is_multiple_of(2) {
        return Ok(end);
    }
    let unpadded = contents.array::<4>(end)?.is_some_and(|name| is_name(&name));
    let padded = contents.array::<4>(end + 1)?.is_some_and(|name| is_name(&name));
    Ok(if unpadded && !padded { end } else { end + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;

    fn wav(riff: u32, chunks: &[u8], data: u32, samples: &[u8]) -> Vec<u8> {
        let format = [1, 0, 1, 0, 0x80, 0x3e, 0, 0, 0, 0x7d, 0, 0, 2, 0, 16, 0];
        let head: [&[u8]; 5] = [b"RIFF", &riff.to_le_bytes(), b"WAVEfmt \x10\0\0\0", &format, chunks];
        [head.concat().as_slice(), b"data", &data.to_le_bytes(), samples].concat()
    }

    fn size(file: &[u8]) -> Result<u64> {
        use symphonia::core::io::MediaSource;
        let view = view(Contents::open(&Source::from(file)).unwrap(), 0)?.0;
        Ok(view.byte_len().unwrap() - 44)
    }

    #[test]
    fn sizes_of_pipes_and_dead_recorders_mean_all_that_is_there() {
        for data in [0, 0x7fff_ffff, 0x7fff_f000, 0x7fff_ffff - 36, 0x8000_0000, u32::MAX, u32::MAX - 36] {
            for riff in [0, 36, u32::MAX, 0x7fff_ffff] {
                assert_eq!(size(&wav(riff, b"", data, &[7; 100])).unwrap(), 100, "{riff} {data}");
            }
        }
    }

    #[test]
    fn a_size_that_is_stated_must_be_there_and_what_follows_is_no_sound() {
        assert_eq!(size(&wav(140, b"", 60, &[7; 100])).unwrap(), 60);
        assert!(size(&wav(136, b"", 102, &[7; 100])).unwrap_err().to_string().contains("only 100 are there"));
        assert_eq!(size(&wav(36 + 12, b"", 0, b"LIST\x04\0\0\0INFO")).unwrap(), 0);
    }

    #[test]
    fn chunks_of_odd_length_may_lack_their_padding() {
        for chunk in [b"abcd\x03\0\0\0xyz".as_slice(), b"abcd\x03\0\0\0xyz\0", b"abcd\x04\0\0\0xyz\0"] {
            assert_eq!(size(&wav(0, chunk, 0, &[7; 100])).unwrap(), 100);
        }
    }
}
