//! Single bits and variable-length numbers of an H.264 header.

/// Reads bits, the highest of each byte first.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Number of bits read so far.
    pub(super) at: usize,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    pub(super) fn number(&mut self, bits: usize) -> Option<u32> {
        (0..bits).try_fold(0u32, |value, _| Some(value << 1 | u32::from(self.flag()?)))
    }

    /// Reads an Exp-Golomb number, whose count of leading zeros gives its length.
    pub(super) fn unsigned(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
        }
        if zeros > 31 {
            return None;
        }
        Some(((1 << zeros) - 1) + self.number(zeros)?)
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let code = i64::from(self.unsigned()?);
        Some(if code % 2 == 1 { (code + 1) / 2 } else { -code / 2 })
    }
}

/// Removes the emulation prevention bytes, which keep the contents from looking like a start code.
pub(super) fn unescape(unit: &[u8]) -> Vec<u8> {
    let mut zeros = 0;
    let mut plain = Vec::with_capacity(unit.len());
    for &byte in unit {
        let inserted = zeros >= 2 && byte == 3;
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        if !inserted {
            plain.push(byte);
        }
    }
    plain
}

/// Inserts emulation prevention bytes: the reverse of [`unescape`].
pub(super) fn escape(plain: &[u8]) -> Vec<u8> {
    let mut zeros = 0;
    let mut unit = Vec::with_capacity(plain.len());
    for &byte in plain {
        if zeros >= 2 && byte <= 3 {
            unit.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        unit.push(byte);
    }
    unit
}

/// Puts `inserted` (zeros and ones) in front of bit `at`; what follows moves back.
pub(super) fn insert(bytes: &[u8], at: usize, inserted: &[u8]) -> Vec<u8> {
    let bit = |index: usize| bytes[index / 8] >> (7 - index % 8) & 1;
    let moved: Vec<u8> =
        (0..at).map(bit).chain(inserted.iter().copied()).chain((at..bytes.len() * 8).map(bit)).collect();
    let byte = |bits: &[u8]| bits.iter().enumerate().fold(0, |byte, (place, bit)| byte | bit << (7 - place));
    moved.chunks(8).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_each_kind_are_read() {
        // 1 | 010 | 011 | 00100 | 101
        let bytes = [0b1010_0110, 0b0100_1010];
        let mut bits = Bits::new(&bytes);
        let read: Vec<_> = std::iter::from_fn(|| bits.unsigned()).take(4).collect();
        assert_eq!(read, [0, 1, 2, 3]);
        assert_eq!(bits.number(3), Some(0b101));
        assert_eq!(bits.number(9), None);
        assert_eq!(Bits::new(&[0b0010_0000]).signed(), Some(2));
        assert_eq!(Bits::new(&[0b0010_1000]).signed(), Some(-2));
        assert_eq!(Bits::new(&[0; 9]).unsigned(), None);
    }

    #[test]
    fn escapes_come_and_go() {
        let plain = [0, 0, 0, 0, 1, 7, 0, 0, 3, 0, 0];
        let unit = escape(&plain);
        assert_eq!(unit, [0, 0, 3, 0, 0, 3, 1, 7, 0, 0, 3, 3, 0, 0]);
        assert_eq!(unescape(&unit), plain);
    }

    #[test]
    fn bits_are_inserted() {
        assert_eq!(insert(&[0b1010_1111], 4, &[0, 0, 1]), [0b1010_0011, 0b1110_0000]);
    }
}
