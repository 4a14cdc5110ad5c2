//! The contents of a file, read where they are needed: a long video never lies in memory whole.

use crate::boxes::{Fault, Name, Overrun};
use crate::reason::Reason;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

/// Most bytes of one box of tables, or of one coded frame; both are read whole.
const MOST_BYTES: u64 = 1 << 28;

/// Most boxes at the top level; a fragment, usually a second or more, has two.
const MOST_BOXES: usize = 1 << 20;

/// The contents of an MP4 or MOV file.
#[derive(Debug)]
pub(crate) struct Contents {
    place: Place,
    length: u64,
}

#[derive(Debug)]
enum Place {
    Memory(Arc<[u8]>),
    Disk(File),
}

/// A box at the top level; its contents have not been read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TopBox {
    pub(super) name: Name,
    /// Offset of its header in the file.
    pub(super) start: u64,
    header: u64,
    size: u64,
}

impl Contents {
    pub(crate) fn of_bytes(bytes: Arc<[u8]>) -> Self {
        Self { length: bytes.len() as u64, place: Place::Memory(bytes) }
    }

    pub(crate) fn of_file(file: File) -> io::Result<Self> {
        Ok(Self { length: file.metadata()?.len(), place: Place::Disk(file) })
    }

    /// Number of bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Replaces the contents of `buffer` by `length` bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, length: u64, buffer: &mut Vec<u8>) -> Result<(), Fault> {
        buffer.clear();
        if length > MOST_BYTES {
            let reason = format!("a part of {length} bytes is too large; at most {MOST_BYTES} are read at once");
            return Err(Fault::unusable(reason));
        }
        let read = match &self.place {
            Place::Memory(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
                buffer.extend_from_slice(&rest[..rest.len().min(length as usize)]);
                Ok(buffer.len())
            }
            Place::Disk(file) => read_at(file, offset, length, buffer),
        };
        match read {
            Ok(read) if read as u64 == length => Ok(()),
            Ok(read) => Err(Fault::damaged(format!("{read} of {length} bytes are at byte {offset}: it is cut off"))),
            Err(error) => {
                let reason = Reason::from(format!("it cannot be read at byte {offset}: {error}"));
                Err(Fault::damaged(reason.caused_by(error)))
            }
        }
    }

    /// The contents of a box.
    pub(super) fn body(&self, top: &TopBox) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::new();
        self.read(top.start + top.header, top.size - top.header, &mut body)?;
        Ok(body)
    }

    /// Lists the boxes at the top level, up to one that is longer than what is left.
    pub(super) fn boxes(&self) -> Result<(Vec<TopBox>, Option<Overrun>), Fault> {
        let (mut boxes, mut at) = (Vec::new(), 0);
        // Fewer bytes than a header are padding.
        while self.length - at >= 8 {
            if boxes.len() == MOST_BOXES {
                return Err(Fault::unusable(format!("the file has more than {MOST_BOXES} boxes")));
            }
            let top = self.header(at)?;
            let left = self.length - at;
            if top.size < top.header || top.size > left {
                let reason = format!("the box {} has {} bytes, but {left} are left: it is cut off", top.name, top.size);
                return Ok((boxes, Some(Overrun { name: top.name.0, reason: reason.into() })));
            }
            at += top.size;
            boxes.push(top);
        }
        Ok((boxes, None))
    }

    fn header(&self, start: u64) -> Result<TopBox, Fault> {
        let mut head = Vec::new();
        self.read(start, (self.length - start).min(16), &mut head)?;
        let word = |at: usize| head.get(at..at + 4).and_then(|word| word.first_chunk()).copied();
        let name = Name(word(4).unwrap_or_default());
        let size = u64::from(word(0).map_or(0, u32::from_be_bytes));
        let long = head.get(8..).and_then(|long| long.first_chunk()).map_or(u64::MAX, |long| u64::from_be_bytes(*long));
        let (header, size) = match size {
            0 => (8, self.length - start),
            1 => (16, long),
            size => (8, size),
        };
        Ok(TopBox { name, start, header, size })
    }
}

fn read_at(mut file: &File, offset: u64, length: u64, buffer: &mut Vec<u8>) -> io::Result<usize> {
    file.seek(SeekFrom::Start(offset))?;
    file.take(length).read_to_end(buffer)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const FILE: &[u8] = b"\0\0\0\x0cfreeabcd\0\0\0\x01moov\0\0\0\0\0\0\0\x12xy\0\0\0\0lastz";

    #[test]
    fn memory_and_disk_give_the_same_boxes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(FILE).unwrap();
        for contents in [Contents::of_file(file).unwrap(), Contents::of_bytes(FILE.into())] {
            let (boxes, overrun) = contents.boxes().unwrap();
            assert_eq!(
                (boxes.iter().map(|top| top.name.0).collect::<Vec<_>>(), overrun.is_none()),
                (vec![*b"free", *b"moov", *b"last"], true)
            );
            assert_eq!(contents.body(&boxes[1]).unwrap(), b"xy");
            let beyond = contents.read(30, 10, &mut Vec::new());
            assert!(matches!(beyond, Err(Fault::Damaged(reason)) if reason.text().contains("cut off")));
        }
    }

    #[test]
    fn sizes_that_cannot_be_end_the_walk() {
        for bytes in [&b"\0\0\0\x07freeabcd"[..], b"\0\0\0\x10freeabcd", b"\0\0\0\x01free\0\0", &[255; 20]] {
            assert!(Contents::of_bytes(bytes.into()).boxes().unwrap().1.is_some());
        }
        assert!(Contents::of_bytes(b"\0\0\0\x01free\0\0\0\0\0\0\0\0"[..].into()).boxes().unwrap().1.is_some());
    }
}
