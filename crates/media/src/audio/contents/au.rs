//! AU files of Sun and NeXT: the samples behind the header of an AIFF-C file.

use super::aiff;
use super::chunk::is_unknown;
use super::file::Contents;
use super::kind::Kind;
use super::view::View;
use crate::Result;

/// Makes the view of the samples behind a header of AIFF-C, which has the same codings.
///
/// # Errors
/// [`crate::MediaError::Unsupported`] for other codings, [`crate::MediaError::Damaged`] if samples that are announced are missing.
pub(super) fn view(mut contents: Contents, start: u64) -> Result<(View, Kind)> {
    let header = contents.array::<24>(start)?.ok_or_else(|| contents.damaged("the AU header is truncated"))?;
    let words = header.as_chunks::<4>().0;
    let [_, offset, size, coding, rate, channels] = [0, 1, 2, 3, 4, 5].map(|at| u32::from_be_bytes(words[at]));
    let coding = Coding::of(coding).ok_or_else(|| contents.unsupported(format!("AU of coding {coding}")))?;
    let channels = u16::try_from(channels).map_err(|_| contents.damaged(format!("{channels} channels")))?;
    let data = start + u64::from(offset).max(24);
    let there = contents.len().saturating_sub(data);
    let size = match size {
        // What a pipe's header has.
        0 => there,
        size if u64::from(size) > there && is_unknown(size.into()) => there,
        size if u64::from(size) > there => {
            let reason = format!("{size} bytes of samples are promised, but only {there} are there: truncated?");
            return Err(contents.damaged(reason));
        }
        size => size.into(),
    };
    let common = coding.common(channels, rate, size);
    let head = aiff::header(b"AIFC", &common, size).ok_or_else(|| contents.unsupported("AU of more than 4 GiB"))?;
    Ok((View::behind(head, contents, data..data + size), Kind::Other))
}

/// A coding by its name in AIFF-C and the bits of a sample.
struct Coding {
    name: &'static [u8; 4],
    bits: u16,
}

impl Coding {
    fn of(number: u32) -> Option<Self> {
        let (name, bits) = match number {
            1 => (b"ulaw", 8),
            2 => (b"NONE", 8),
            3 => (b"NONE", 16),
            4 => (b"NONE", 24),
            5 => (b"NONE", 32),
            6 => (b"fl32", 32),
            7 => (b"fl64", 64),
            27 => (b"alaw", 8),
            _ => return None,
        };
        Some(Self { name, bits })
    }

    /// The contents of the chunk `COMM`.
    fn common(&self, channels: u16, rate: u32, size: u64) -> Vec<u8> {
        let frame = (u64::from(channels) * u64::from(self.bits / 8)).max(1);
        let frames = u32::try_from(size / frame).unwrap_or(u32::MAX);
        // The laws are said to have the width that they expand to.
        let bits = if matches!(self.name, b"ulaw" | b"alaw") { 16 } else { self.bits };
        let head = [channels.to_be_bytes().as_slice(), &frames.to_be_bytes(), &bits.to_be_bytes()].concat();
        [head.as_slice(), &extended(rate), self.name, &[0, 0]].concat()
    }
}

/// A whole number as an 80-bit float.
fn extended(number: u32) -> [u8; 10] {
    let shift = number.leading_zeros();
    let exponent = if number == 0 { 0 } else { 16_383 + 31 - shift as u16 };
    let mantissa = number.checked_shl(shift).unwrap_or(0);
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&exponent.to_be_bytes());
    bytes[2..6].copy_from_slice(&mantissa.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_as_aiff_files_have_them() {
        assert_eq!(extended(44_100), [0x40, 0x0e, 0xac, 0x44, 0, 0, 0, 0, 0, 0]);
        assert_eq!(extended(8_000), [0x40, 0x0b, 0xfa, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(extended(0), [0; 10]);
    }
}
