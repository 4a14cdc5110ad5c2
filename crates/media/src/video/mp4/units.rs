//! The units (NAL units) of a sample of H.264, and how the decoder gets them.

use super::sequence;
use crate::boxes::Fault;
use crate::reason::Reason;

const SLICE: u8 = 1;
const PARTITIONS: std::ops::RangeInclusive<u8> = 2..=4;
const KEY_SLICE: u8 = 5;
const SEQUENCE: u8 = 7;
const PICTURE: u8 = 8;

/// Role of a sample in decoding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Role {
    /// Everything from here on can be decoded without what came before.
    Key,
    /// Later frames may build on it.
    Reference,
    /// No other frame needs it.
    Alone,
}

/// Iterates over the units of a sample, each preceded by its length.
pub(super) struct Units<'a> {
    rest: &'a [u8],
    length_bytes: usize,
}

impl<'a> Units<'a> {
    pub(super) fn new(sample: &'a [u8], length_bytes: usize) -> Self {
        Self { rest: sample, length_bytes }
    }
}

impl<'a> Iterator for Units<'a> {
    type Item = Result<&'a [u8], Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let split = self.rest.split_at_checked(self.length_bytes).and_then(|(length, rest)| {
            rest.split_at_checked(length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
        });
        let Some((unit, rest)) = split else {
            self.rest = &[];
            return Some(Err("a part of it is longer than the frame".into()));
        };
        self.rest = rest;
        Some(Ok(unit))
    }
}

fn kind(unit: &[u8]) -> Option<u8> {
    unit.first().map(|head| head & 0x1f)
}

/// Whether the unit is a sequence header.
pub(super) fn is_sequence(unit: &[u8]) -> bool {
    kind(unit) == Some(SEQUENCE)
}

/// Role of a sample, which must hold a picture that can be decoded here.
pub(super) fn role(sample: &[u8], length_bytes: usize) -> Result<Role, Fault> {
    let mut role = None;
    for unit in Units::new(sample, length_bytes) {
        let unit = unit?;
        role = match kind(unit) {
            Some(KEY_SLICE) => Some(Role::Key),
            Some(SLICE) if unit[0] & 0x60 == 0 => role.or(Some(Role::Alone)),
            Some(SLICE) if role != Some(Role::Key) => Some(Role::Reference),
            Some(kind) if PARTITIONS.contains(&kind) => {
                return Err(Fault::foreign("it is coded in partitions"));
            }
            _ => role,
        };
    }
    role.ok_or_else(|| Fault::foreign("it holds no picture"))
}

/// Appends a unit in the form the decoder takes; with `only_headers`, pictures are left out.
///
/// Other kinds of units, such as further views and layers or remarks, are left out.
pub(super) fn append(unit: &[u8], only_headers: bool, stream: &mut Vec<u8>) -> Result<(), Fault> {
    let relabelled;
    let unit = match kind(unit) {
        Some(SEQUENCE) => {
            relabelled = sequence::read(unit)?.1;
            &relabelled
        }
        Some(PICTURE) => unit,
        Some(SLICE | KEY_SLICE) if !only_headers => unit,
        _ => return Ok(()),
    };
    stream.extend([0, 0, 0, 1]);
    stream.extend(unit);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_become_start_codes() {
        let sample = [0, 1, 0x09, 0, 2, 0x68, 7, 0, 0, 0, 3, 0x65, 8, 9];
        let stream = |only_headers| {
            let mut stream = Vec::new();
            for unit in Units::new(&sample, 2) {
                append(unit.unwrap(), only_headers, &mut stream).unwrap();
            }
            stream
        };
        assert_eq!(stream(false), [0, 0, 0, 1, 0x68, 7, 0, 0, 0, 1, 0x65, 8, 9]);
        assert_eq!(stream(true), [0, 0, 0, 1, 0x68, 7]);
    }

    #[test]
    fn roles_follow_from_the_slices() {
        assert_eq!(role(&[1, 0x65, 1, 0x41], 1).unwrap(), Role::Key);
        assert_eq!(role(&[1, 0x01, 1, 0x41], 1).unwrap(), Role::Reference);
        assert_eq!(role(&[1, 0x06, 1, 0x01], 1).unwrap(), Role::Alone);
        assert!(matches!(role(&[1, 0x06], 1), Err(Fault::Foreign(_))));
        assert!(matches!(role(&[2, 0x41], 1), Err(Fault::Damaged(_))));
        assert!(matches!(role(&[0, 0, 1], 4), Err(Fault::Damaged(_))));
    }
}
