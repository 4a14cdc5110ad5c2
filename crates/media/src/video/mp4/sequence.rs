//! The sequence header (SPS) of H.264: the size of the pictures, their colours, and whether they can be decoded here.

use super::bits::{Bits, escape, insert, unescape};
use super::colour::Colour;
use crate::boxes::Fault;

const LONGEST_SIDE: u32 = 8192;
pub(crate) const MOST_PIXELS: u64 = 33_500_000;

/// Profile numbers; those from 100 on have more fields.
const BASELINE: u32 = 66;
const MAIN: u32 = 77;
const HIGH: [u32; 3] = [100, 110, 122];

/// "Scalable baseline" has the fields of the high profiles.
const UNORDERED: u8 = 83;

/// What the sequence header says about the pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sequence {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) colour: Option<Colour>,
}

/// Reads a sequence header, and returns it with the bytes that the decoder is given instead.
///
/// OpenH264 guesses the order of display, and may lose frames by it; where the profile has no B-frames, it leaves frames in order
/// of decoding. As the file says when each frame is shown, the header is rewritten to such a profile. Nothing else that is decoded
/// depends on the profile.
pub(super) fn read(unit: &[u8]) -> Result<(Sequence, Vec<u8>), Fault> {
    let plain = unescape(unit);
    let mut bits = Bits::new(plain.get(1..).unwrap_or_default());
    let cut = || Fault::damaged("a sequence header ends too early");
    let (profile, _constraints, _level) =
        (bits.number(8).ok_or_else(cut)?, bits.number(8).ok_or_else(cut)?, bits.number(8).ok_or_else(cut)?);
    bits.unsigned().ok_or_else(cut)?;
    let after_id = bits.at;
    if profile != BASELINE && profile != MAIN && !HIGH.contains(&profile) {
        return Err(Fault::foreign(format!("its H.264 profile {profile} is not read here")));
    }
    if HIGH.contains(&profile) {
        refuse(plain_pictures(&mut bits).ok_or_else(cut)?)?;
    }
    refuse(progressive_order(&mut bits).ok_or_else(cut)?)?;
    let sequence = pictures(&mut bits).ok_or_else(cut)??;
    Ok((sequence, relabelled(plain, profile, after_id)))
}

fn refuse(reason: Option<&'static str>) -> Result<(), Fault> {
    reason.map_or(Ok(()), |reason| Err(Fault::foreign(format!("its H.264 {reason}"))))
}

fn relabelled(mut plain: Vec<u8>, profile: u32, after_id: usize) -> Vec<u8> {
    if profile == BASELINE {
        return escape(&plain);
    }
    plain[1] = UNORDERED;
    if profile == MAIN {
        // What a high profile would say of such pictures: 4:2:0, 8 bits, 8 bits, lossy, no scaling lists.
        plain = insert(&plain, 8 + after_id, &[0, 1, 0, 1, 1, 0, 0]);
    }
    escape(&plain)
}

/// Reads the fields of the high profiles; returns the reason why such pictures are not decoded here, if there is one.
fn plain_pictures(bits: &mut Bits<'_>) -> Option<Option<&'static str>> {
    let chroma = bits.unsigned()?;
    let depths = (bits.unsigned()?, bits.unsigned()?);
    let lossless = bits.flag()?;
    if chroma != 1 || depths != (0, 0) || lossless {
        return Some(Some("has other pictures than 4:2:0 of 8 bits"));
    }
    if bits.flag()? {
        for list in 0..8 {
            if bits.flag()? {
                skip_scaling(bits, if list < 6 { 16 } else { 64 })?;
            }
        }
    }
    Some(None)
}

fn skip_scaling(bits: &mut Bits<'_>, size: usize) -> Option<()> {
    let mut last = 8;
    for _ in 0..size {
        let next = (last + bits.signed()?) & 0xff;
        if next == 0 {
            break;
        }
        last = next;
    }
    Some(())
}

/// Reads the fields on the order of frames; returns the reason why these are not decoded here, if there is one.
fn progressive_order(bits: &mut Bits<'_>) -> Option<Option<&'static str>> {
    bits.unsigned()?;
    match bits.unsigned()? {
        0 => drop(bits.unsigned()?),
        2 => (),
        _ => return Some(Some("counts frames in a way that is not read here")),
    }
    bits.unsigned()?;
    Some(bits.flag()?.then_some("may leave out frames"))
}

fn pictures(bits: &mut Bits<'_>) -> Option<Result<Sequence, Fault>> {
    let (columns, rows) = (bits.unsigned()?, bits.unsigned()?);
    if !bits.flag()? {
        return Some(Err(Fault::foreign("its H.264 is interlaced")));
    }
    bits.flag()?;
    let mut crop = [0; 4];
    if bits.flag()? {
        for side in &mut crop {
            *side = bits.unsigned()?;
        }
    }
    let [left, right, top, bottom] = crop;
    let (width, height) = match (side(columns, left, right), side(rows, top, bottom)) {
        (Ok(width), Ok(height)) => (width, height),
        (Err(fault), _) | (_, Err(fault)) => return Some(Err(fault)),
    };
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        let reason = format!("frames of {width} × {height} pixels are too large; at most {MOST_PIXELS} are read");
        return Some(Err(Fault::unusable(reason)));
    }
    let colour = if bits.flag()? { colour(bits).flatten() } else { None };
    Some(Ok(Sequence { width: width as usize, height: height as usize, colour }))
}

/// The length of one side, given in blocks of 16 pixels less what is cropped in pairs.
fn side(blocks: u32, crop_before: u32, crop_after: u32) -> Result<u32, Fault> {
    let coded = (u64::from(blocks) + 1) * 16;
    if coded > u64::from(LONGEST_SIDE) {
        let reason = format!("frames with a side of {coded} pixels are too large; at most {LONGEST_SIDE} are read");
        return Err(Fault::unusable(reason));
    }
    let cropped = 2 * (u64::from(crop_before) + u64::from(crop_after));
    if cropped >= coded {
        return Err(Fault::damaged(format!("a sequence header crops {cropped} of {coded} pixels")));
    }
    Ok((coded - cropped) as u32)
}

/// Reads the colours from the display information (VUI); none if it is cut short or does not state them.
fn colour(bits: &mut Bits<'_>) -> Option<Option<Colour>> {
    const FREE_RATIO: u32 = 255;
    if bits.flag()? && bits.number(8)? == FREE_RATIO {
        bits.number(32)?;
    }
    if bits.flag()? {
        bits.flag()?;
    }
    if !bits.flag()? {
        return Some(None);
    }
    bits.number(3)?;
    let full = bits.flag()?;
    let matrix = if bits.flag()? { bits.number(24)? & 0xff } else { Colour::UNSPECIFIED };
    Some(Some(Colour { matrix: matrix as u16, full }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of Main profile, level 3.0: 128 × 96, cropped to 126 × 94, limited BT.709.
    fn main_header() -> Vec<u8> {
        let text = "01100111 01001101 00000000 00011110 1 1 1 1 010 0 0001000 00110 1 1 1 1 010 1 010 1 0 0 1 101 0 1 \
                    00000001 00000001 00000001 0 0 1";
        let bits: Vec<u8> = text.bytes().filter(|c| *c != b' ').map(|c| c - b'0').collect();
        escape(&insert(&[], 0, &bits))
    }

    #[test]
    fn size_and_colour_are_read_and_the_rest_survives_relabelling() {
        let (sequence, relabelled) = read(&main_header()).unwrap();
        assert_eq!((sequence.width, sequence.height), (126, 94));
        assert_eq!(sequence.colour, Some(Colour { matrix: 1, full: false }));
        assert_eq!(relabelled[1], UNORDERED);
        let mut high = unescape(&relabelled);
        high[1] = HIGH[0] as u8;
        assert_eq!(read(&escape(&high)).unwrap().0, sequence);
    }

    #[test]
    fn a_header_cut_anywhere_is_no_panic() {
        let header = main_header();
        for length in 0..header.len() {
            let read = read(&header[..length]);
            assert!(read.is_err() || length >= 8, "{length}: {read:?}");
        }
    }

    #[test]
    fn sides_are_bounded() {
        assert!(matches!(side(7, 1, 0), Ok(126)));
        assert!(matches!(side(512, 0, 0), Err(Fault::Unusable(_))));
        assert!(matches!(side(7, 32, 32), Err(Fault::Damaged(_))));
        assert!(matches!(side(u32::MAX, u32::MAX, u32::MAX), Err(Fault::Unusable(_))));
    }
}
