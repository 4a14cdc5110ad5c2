//! The coded pictures as a stream that a decoder of the codec takes.

use super::codec::Codec;
use super::items::{Items, Layout};
use crate::boxes::{Fault, Fields};

/// How many times larger than the file a stream may be: headers are repeated for each part.
const MOST_GROWTH: usize = 16;

/// Writes the coded pictures of a layout one after the other.
pub(super) fn stream(items: &Items, layout: &Layout, file: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut stream = match layout.codec {
        Codec::Hevc => Vec::new(),
        Codec::Av1 => ivf_header(layout.tiles.len() as u32),
    };
    let mut total = 0;
    for (index, tile) in layout.tiles.iter().enumerate() {
        let picture = items.bytes(file, *tile)?;
        if picture.is_empty() {
            return Err(Fault::damaged("a part of the picture is empty"));
        }
        total += picture.len();
        // Otherwise a small file could make gigabytes.
        if total > file.len() {
            return Err(Fault::damaged("the parts of the picture overlap"));
        }
        match layout.codec {
            Codec::Hevc => append_hevc(items.hevc_headers(*tile)?, &picture, &mut stream)?,
            Codec::Av1 => append_ivf(index as u64, &picture, &mut stream),
        }
        if stream.len() > file.len().saturating_mul(MOST_GROWTH) {
            return Err(Fault::damaged("the headers of the picture's parts are too large"));
        }
    }
    Ok(stream)
}

/// Appends the headers and the units of a picture, each behind a start code instead of its length.
fn append_hevc(headers: &[u8], picture: &[u8], stream: &mut Vec<u8>) -> Result<(), Fault> {
    let mut append = |unit: &[u8]| {
        stream.extend([0, 0, 0, 1]);
        stream.extend(unit);
    };
    let mut fields = Fields::new("hvcC", headers);
    fields.bytes(21)?;
    let length_bytes = usize::from(fields.u8()? & 3) + 1;
    for _ in 0..fields.u8()? {
        fields.u8()?;
        for _ in 0..fields.u16()? {
            let length = fields.u16()?;
            append(fields.bytes(length.into())?);
        }
    }
    let mut units = Fields::new("mdat", picture);
    while !units.rest().is_empty() {
        let length = units.bytes(length_bytes)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        append(units.bytes(length).map_err(|_| Fault::damaged("the picture is truncated: a part of it is missing"))?);
    }
    Ok(())
}

/// The head of an IVF file of `frames` frames. Its size of the picture is not read.
fn ivf_header(frames: u32) -> Vec<u8> {
    let mut head = b"DKIF\0\0\x20\0AV01\x10\0\x10\0".to_vec();
    head.extend([25u32, 1, frames, 0].iter().flat_map(|word| word.to_le_bytes()));
    head
}

fn append_ivf(index: u64, picture: &[u8], stream: &mut Vec<u8>) {
    /// Opens a frame; left out in the picture's own form.
    const DELIMITER: [u8; 2] = [0x12, 0];
    stream.extend(((picture.len() + DELIMITER.len()) as u32).to_le_bytes());
    stream.extend(index.to_le_bytes());
    stream.extend(DELIMITER);
    stream.extend(picture);
}
