//! Where each coded frame lies and when it is shown, from the fragments (`moof`) of a file written piece by piece.

use super::contents::{Contents, TopBox};
use super::samples::{Sample, Samples};
use crate::boxes::{Atoms, Fault, Fields, find, require};
use crate::reason::Reason;

/// Defaults for samples of a fragment that state no values of their own.
#[derive(Clone, Copy)]
struct Defaults {
    length: u32,
    size: u32,
}

/// Where the next run's data begins and when it is decoded.
struct Place {
    offset: u64,
    decoded: i64,
}

/// A fragment's tables, and where they begin in the file.
struct Moof<'a> {
    start: u64,
    body: &'a [u8],
}

/// Appends the samples that the fragments hold for the track.
pub(super) fn read(
    file: &Contents,
    boxes: &[TopBox],
    moov: &[u8],
    track: u32,
    samples: &mut Samples,
) -> Result<(), Fault> {
    let Some(mvex) = find(moov, b"mvex")? else {
        return Ok(());
    };
    let defaults = extends(mvex, track)?;
    let mut decoded = samples.list.last().map_or(0, |last| last.shown.saturating_add(i64::from(last.length)));
    for top in boxes.iter().filter(|top| top.name.0 == *b"moof") {
        let moof = Moof { start: top.start, body: &file.body(top)? };
        decoded = fragment(&moof, track, defaults, decoded, samples)?;
    }
    Ok(())
}

fn extends(mvex: &[u8], track: u32) -> Result<Defaults, Reason> {
    for atom in Atoms::new(mvex) {
        let atom = atom?;
        if atom.name.0 == *b"trex" {
            let (mut fields, ..) = Fields::versioned("trex", atom.body)?;
            let (id, _description, length, size) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
            if id == track {
                return Ok(Defaults { length, size });
            }
        }
    }
    Ok(Defaults { length: 0, size: 0 })
}

/// Reads one fragment and returns the decoding time of the next one.
fn fragment(
    moof: &Moof<'_>,
    track: u32,
    defaults: Defaults,
    mut decoded: i64,
    samples: &mut Samples,
) -> Result<i64, Fault> {
    let mut first = true;
    for atom in Atoms::new(moof.body) {
        let atom = atom?;
        if atom.name.0 == *b"traf" {
            let head = Head::read(atom.body, defaults)?;
            if head.track == track {
                decoded = runs(atom.body, &head, head.base(moof, first)?, decoded, samples)?;
            }
            first = false;
        }
    }
    Ok(decoded)
}

/// The header of one track's part of a fragment.
struct Head {
    track: u32,
    base: Option<u64>,
    from_moof: bool,
    defaults: Defaults,
}

impl Head {
    fn read(traf: &[u8], defaults: Defaults) -> Result<Self, Reason> {
        let (mut fields, _, flags) = Fields::versioned("tfhd", require(traf, &[b"tfhd"])?)?;
        let track = fields.u32()?;
        let base = if flags & 1 != 0 { Some(fields.u64()?) } else { None };
        if flags & 2 != 0 {
            fields.u32()?;
        }
        let length = if flags & 8 != 0 { fields.u32()? } else { defaults.length };
        let size = if flags & 0x10 != 0 { fields.u32()? } else { defaults.size };
        Ok(Self { track, base, from_moof: flags & 0x2_0000 != 0, defaults: Defaults { length, size } })
    }

    /// Offset in the file that the runs' offsets are counted from.
    fn base(&self, moof: &Moof<'_>, first: bool) -> Result<u64, Fault> {
        match self.base {
            Some(base) => Ok(base),
            None if self.from_moof || first => Ok(moof.start),
            None => Err(Fault::foreign("the fragments' offsets are counted from one track to the next")),
        }
    }
}

fn runs(traf: &[u8], head: &Head, base: u64, decoded: i64, samples: &mut Samples) -> Result<i64, Fault> {
    let mut place = Place { offset: base, decoded };
    if let Some(tfdt) = find(traf, b"tfdt")? {
        let (mut fields, version, _) = Fields::versioned("tfdt", tfdt)?;
        place.decoded = i64::try_from(fields.wide(version)?).unwrap_or(i64::MAX);
    }
    for atom in Atoms::new(traf) {
        let atom = atom?;
        if atom.name.0 == *b"trun" {
            run(atom.body, base, head.defaults, &mut place, samples)?;
        }
    }
    Ok(place.decoded)
}

fn run(body: &[u8], base: u64, defaults: Defaults, place: &mut Place, samples: &mut Samples) -> Result<(), Fault> {
    let (mut fields, _, flags) = Fields::versioned("trun", body)?;
    let count = fields.u32()?;
    if flags & 1 != 0 {
        place.offset = base.saturating_add_signed(i64::from(fields.i32()?));
    }
    if flags & 4 != 0 {
        fields.u32()?;
    }
    let mut field = |bit: u32, default| if flags & bit != 0 { fields.u32() } else { Ok(default) };
    for _ in 0..count {
        let (length, size) = (field(0x100, defaults.length)?, field(0x200, defaults.size)?);
        let (_flags, delay) = (field(0x400, 0)?, field(0x800, 0)?);
        // Version 0 declares the delay unsigned, but a value above half the range is always a small negative one.
        let shown = place.decoded.saturating_add(i64::from(delay as i32));
        samples.push(Sample { offset: place.offset, size, length, shown })?;
        place.offset = place.offset.saturating_add(u64::from(size));
        place.decoded = place.decoded.saturating_add(i64::from(length));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_takes_defaults_where_it_says_nothing() {
        let mut body = vec![0, 0, 2, 1];
        body.extend([2u32, 50, 6, 7].iter().flat_map(|word| word.to_be_bytes()));
        let mut samples = Samples::new(1000);
        let mut place = Place { offset: 0, decoded: 90 };
        run(&body, 100, Defaults { length: 10, size: 1 }, &mut place, &mut samples).unwrap();
        let rows: Vec<_> = samples.list.iter().map(|s| (s.offset, s.size, s.length, s.shown)).collect();
        assert_eq!(rows, [(150, 6, 10, 90), (156, 7, 10, 100)]);
        assert_eq!((place.offset, place.decoded), (163, 110));
    }

    #[test]
    fn a_run_of_too_many_frames_is_refused() {
        let body = [0, 0, 0, 0, 255, 255, 255, 255];
        let mut place = Place { offset: 0, decoded: 0 };
        let refused = run(&body, 0, Defaults { length: 1, size: 1 }, &mut place, &mut Samples::new(100));
        assert!(matches!(refused, Err(Fault::Damaged(reason)) if reason.text().contains("frame 101")));
    }
}
