//! The nesting of MP4 and HEIF files: boxes of a length, a name of four letters and contents.

use std::fmt;

use crate::reason::Reason;

/// Why a file cannot be read here.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is broken or cut off.
    Damaged(Reason),
    /// It is sound, but there is nothing to show.
    Unusable(Reason),
    /// It is of a kind that another reader may take.
    Foreign(Reason),
}

impl Fault {
    pub(crate) fn damaged(reason: impl Into<Reason>) -> Self {
        Self::Damaged(reason.into())
    }

    pub(crate) fn unusable(reason: impl Into<Reason>) -> Self {
        Self::Unusable(reason.into())
    }

    pub(crate) fn foreign(reason: impl Into<Reason>) -> Self {
        Self::Foreign(reason.into())
    }

    /// Replaces the text by what `words` makes of it; the source stays.
    pub(crate) fn reworded(self, words: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Damaged(reason) => Self::Damaged(reason.reworded(words)),
            Self::Unusable(reason) => Self::Unusable(reason.reworded(words)),
            Self::Foreign(reason) => Self::Foreign(reason.reworded(words)),
        }
    }

    pub(crate) fn into_reason(self) -> Reason {
        match self {
            Self::Damaged(reason) | Self::Unusable(reason) | Self::Foreign(reason) => reason,
        }
    }
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self::Damaged(reason)
    }
}

/// A box's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) [u8; 4]);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0.escape_ascii())
    }
}

/// One box.
#[derive(Clone, Copy)]
pub(crate) struct Atom<'a> {
    pub(crate) name: Name,
    pub(crate) body: &'a [u8],
}

/// A box that is longer than what is left.
#[derive(Debug)]
pub(crate) struct Overrun {
    pub(crate) name: [u8; 4],
    pub(crate) reason: Reason,
}

impl From<Overrun> for Reason {
    fn from(overrun: Overrun) -> Self {
        overrun.reason
    }
}

impl From<Overrun> for Fault {
    fn from(overrun: Overrun) -> Self {
        Self::Damaged(overrun.reason)
    }
}

/// Iterates over the boxes that lie one after another in `bytes`.
pub(crate) struct Atoms<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Atoms<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn atom(&mut self, header: usize, name: Name, size: u64) -> Result<Atom<'a>, Overrun> {
        let left = self.bytes.len() - self.at;
        let size = if size == 0 { left } else { usize::try_from(size).unwrap_or(usize::MAX) };
        if size < header || size > left {
            self.at = self.bytes.len();
            let reason = format!("the box {name} has {size} bytes, but {left} are left: it is cut off or broken");
            return Err(Overrun { name: name.0, reason: reason.into() });
        }
        let start = self.at;
        self.at += size;
        Ok(Atom { name, body: &self.bytes[start + header..start + size] })
    }
}

impl<'a> Iterator for Atoms<'a> {
    type Item = Result<Atom<'a>, Overrun>;

    fn next(&mut self) -> Option<Self::Item> {
        // Fewer bytes than a header are padding: QuickTime ends some lists with four zeros.
        let (head, rest) = self.bytes[self.at..].split_first_chunk::<8>()?;
        let [a, b, c, d, name @ ..] = *head;
        let (header, size) = match u32::from_be_bytes([a, b, c, d]) {
            1 => (16, rest.first_chunk().map_or(u64::MAX, |long| u64::from_be_bytes(*long))),
            size => (8, u64::from(size)),
        };
        // A long size of 0 would mean "up to the end" only in the short field.
        let size = if header == 16 && size == 0 { u64::MAX } else { size };
        Some(self.atom(header, Name(name), size))
    }
}

/// The first box called `name` in `body`.
pub(crate) fn find<'a>(body: &'a [u8], name: &[u8; 4]) -> Result<Option<&'a [u8]>, Reason> {
    for atom in Atoms::new(body) {
        let atom = atom?;
        if atom.name.0 == *name {
            return Ok(Some(atom.body));
        }
    }
    Ok(None)
}

/// The box reached by going through `path`, which must be there.
pub(crate) fn require<'a>(body: &'a [u8], path: &[&[u8; 4]]) -> Result<&'a [u8], Reason> {
    path.iter().try_fold(body, |body, name| {
        find(body, name)?.ok_or_else(|| format!("the box {} is missing", Name(**name)).into())
    })
}

/// Reads the numbers of a box, one after another.
pub(crate) struct Fields<'a> {
    name: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(name: &'static str, body: &'a [u8]) -> Self {
        Self { name, rest: body }
    }

    /// Fields behind a version byte and 24 bits of flags, which are returned too.
    pub(crate) fn versioned(name: &'static str, body: &'a [u8]) -> Result<(Self, u8, u32), Reason> {
        let mut fields = Self::new(name, body);
        let word = fields.u32()?;
        Ok((fields, (word >> 24) as u8, word & 0xff_ffff))
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Reason> {
        let short = || format!("the box `{}` ends too early", self.name);
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Reason> {
        Ok(self.bytes(N)?.try_into().expect("N bytes were taken"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Reason> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Reason> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Reason> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Reason> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Reason> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Reads 64 bits in version 1, otherwise 32.
    pub(crate) fn wide(&mut self, version: u8) -> Result<u64, Reason> {
        if version == 1 { self.u64() } else { Ok(u64::from(self.u32()?)) }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads a count, and that number of entries of `N` bytes.
    pub(crate) fn table<const N: usize>(&mut self) -> Result<&'a [[u8; N]], Reason> {
        let count = self.u32()? as usize;
        let entries = self.rest.as_chunks::<N>().0;
        let short = || format!("the box `{}` announces {count} entries, but has room for {}", self.name, entries.len());
        Ok(entries.get(..count).ok_or_else(short)?)
    }
}

/// The big-endian number at `at` of a table's entry.
pub(crate) fn entry_u32<const N: usize>(entry: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes(entry[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_walked_and_found() {
        let bytes = b"\0\0\0\x0cfreeabcd\0\0\0\x01moov\0\0\0\0\0\0\0\x12xy\0\0\0\0lastz";
        let names: Vec<_> = Atoms::new(bytes).map(|atom| atom.unwrap().name.0).collect();
        assert_eq!(names, [*b"free", *b"moov", *b"last"]);
        assert_eq!(require(bytes, &[b"moov"]).unwrap(), b"xy");
        assert!(require(bytes, &[b"mdat"]).unwrap_err().text().contains("`mdat` is missing"));
    }

    #[test]
    fn sizes_that_cannot_be_end_the_walk() {
        for bytes in [&b"\0\0\0\x07freeabcd"[..], b"\0\0\0\x10freeabcd", b"\0\0\0\x01free\0\0", &[255; 20]] {
            let mut atoms = Atoms::new(bytes);
            assert!(atoms.next().unwrap().is_err());
            assert!(atoms.next().is_none());
        }
        assert!(Atoms::new(b"\0\0\0\x01free\0\0\0\0\0\0\0\0").next().unwrap().is_err());
    }

    #[test]
    fn a_table_must_have_room() {
        let body = [0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(Fields::new("stco", &body).table::<4>().unwrap().len(), 2);
        assert!(Fields::new("stco", &body[..11]).table::<4>().unwrap_err().text().contains("`stco` announces 2"));
    }
}
