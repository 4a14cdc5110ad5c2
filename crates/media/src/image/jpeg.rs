//! Whether a JPEG file is whole.

use std::io::{BufRead, Result, Seek};

const START_OF_SCAN: u8 = 0xDA;
const END_OF_IMAGE: u8 = 0xD9;
/// Markers without a segment: restarts inside a scan, and the start of the image.
const STANDALONE: [u8; 10] = [0x01, 0xD0, 0xD1, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8];

/// Whether the end-of-image marker is reached.
///
/// The decoder fills what is missing with grey. Without the marker nothing tells whether the last rows are there; Pillow, which the
/// reference reads pictures with, refuses such a file even if only the marker is missing.
pub(super) fn is_whole(reader: &mut (impl BufRead + Seek)) -> Result<bool> {
    while let Some(marker) = next_marker(reader)? {
        match marker {
            END_OF_IMAGE => return Ok(true),
            marker if STANDALONE.contains(&marker) => {}
            // Thumbnails, which have markers of their own, lie inside segments. The data of a scan has none of its own.
            _ => {
                let mut length = [0; 2];
                if reader.read(&mut length[..1])? + reader.read(&mut length[1..])? < 2 {
                    return Ok(false);
                }
                let behind = i64::from(u16::from_be_bytes(length)) - 2;
                reader.seek_relative(if marker == START_OF_SCAN { 0 } else { behind.max(0) })?;
            }
        }
    }
    Ok(false)
}

/// The next marker; bytes between segments and the data of scans are skipped.
fn next_marker(reader: &mut impl BufRead) -> Result<Option<u8>> {
    loop {
        reader.skip_until(0xFF)?;
        let mut byte = [0xFF];
        while byte[0] == 0xFF {
            if reader.read(&mut byte)? == 0 {
                return Ok(None);
            }
        }
        // A zero marks a data byte of 255.
        if byte[0] != 0 {
            return Ok(Some(byte[0]));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A start, a segment that holds a thumbnail's end marker, a scan with an escaped byte and a restart, and the end.
    const FILE: [u8; 24] = [
        0xFF, 0xD8, 0xFF, 0xE1, 0, 6, 0xFF, 0xD9, 1, 2, 0xFF, 0xDA, 0, 3, 9, 7, 0xFF, 0, 0xFF, 0xD0, 8, 0xFF, 0xFF,
        0xD9,
    ];

    #[test]
    fn only_the_last_byte_makes_it_whole() {
        for length in 0..FILE.len() {
            assert!(!is_whole(&mut Cursor::new(&FILE[..length])).unwrap(), "{length}");
        }
        assert!(is_whole(&mut Cursor::new([&FILE[..], b"more"].concat())).unwrap());
    }
}
