//! From a whole file to its first video track.

use super::colour::{Colour, Turn};
use super::contents::{Contents, TopBox};
use super::samples::Samples;
use super::{fragments, samples};
use crate::boxes::{Atoms, Fault, Fields, Name, find, require};
use crate::reason::Reason;
use crate::video::track::NO_VIDEO;

/// What the boxes say about the first video track.
pub(super) struct Movie {
    pub(super) samples: Vec<samples::Sample>,
    pub(super) ticks_per_second: u32,
    pub(super) turn: Turn,
    pub(super) shown: Shown,
    pub(super) config: Config,
}

/// When the track is shown, in its ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) from: i64,
    pub(super) until: i64,
}

impl Shown {
    const ALL: Self = Self { from: i64::MIN, until: i64::MAX };
}

/// What the decoder must know before the first frame.
pub(super) struct Config {
    /// Number of bytes that give the length of each unit in a sample.
    pub(super) length_bytes: usize,
    /// Sequence and picture headers.
    pub(super) headers: Vec<Vec<u8>>,
    pub(super) colour: Option<Colour>,
}

impl Movie {
    pub(super) fn read(file: &Contents) -> Result<Self, Fault> {
        let (boxes, moov) = top(file)?;
        let moov = &file.body(&moov)?;
        let trak = video_track(moov)?;
        let stbl = require(trak, &[b"mdia", b"minf", b"stbl"])?;
        let config = Config::read(require(stbl, &[b"stsd"])?)?;
        let (track, turn) = track_header(require(trak, &[b"tkhd"])?)?;
        let ticks_per_second = timescale("mdhd", require(trak, &[b"mdia", b"mdhd"])?)?;
        let shown = edit(moov, trak, ticks_per_second)?;
        let mut samples = Samples::new(file.length());
        samples::read(stbl, &mut samples)?;
        fragments::read(file, &boxes, moov, track, &mut samples)?;
        Ok(Self { samples: samples.list, ticks_per_second, turn, shown, config })
    }
}

/// Names of boxes that stand at the top level.
const KNOWN: [&[u8; 4]; 11] =
    [b"ftyp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx", b"uuid"];

/// Checks that the file is MP4 or MOV and whole, and returns its boxes and which of them is `moov`.
fn top(file: &Contents) -> Result<(Vec<TopBox>, TopBox), Fault> {
    let (boxes, overrun) = file.boxes()?;
    let known = |name: &[u8; 4]| KNOWN.contains(&name);
    let first = boxes.first().map(|top| top.name.0).or(overrun.as_ref().map(|overrun| overrun.name));
    if !first.is_some_and(|name| known(&name)) {
        return Err(Fault::foreign("it does not begin like an MP4 or MOV file"));
    }
    match overrun {
        Some(overrun) if known(&overrun.name) => Err(Fault::Damaged(overrun.reason)),
        // Otherwise something else was appended to the file; where that matters, the tables point beyond the end.
        _ => {
            let moov = boxes.iter().find(|top| top.name.0 == *b"moov").copied().ok_or_else(no_moov)?;
            Ok((boxes, moov))
        }
    }
}

/// Whether there is a sound track whose tables list any sound, or which may have some in fragments.
pub(super) fn has_sound(file: &Contents) -> Result<bool, Fault> {
    let moov = &file.body(&top(file)?.1)?;
    let in_fragments = find(moov, b"mvex")?.is_some();
    for atom in Atoms::new(moov) {
        let atom = atom?;
        if atom.name.0 != *b"trak" || require(atom.body, &[b"mdia", b"hdlr"])?.get(8..12) != Some(b"soun") {
            continue;
        }
        let times = require(atom.body, &[b"mdia", b"minf", b"stbl", b"stts"])?;
        if in_fragments || !Fields::versioned("stts", times)?.0.table::<8>()?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn no_moov() -> Fault {
    Fault::damaged("the box `moov`, which tells where the frames lie, is missing: the file is cut off")
}

fn video_track(moov: &[u8]) -> Result<&[u8], Fault> {
    for atom in Atoms::new(moov) {
        let atom = atom?;
        if atom.name.0 == *b"trak" && require(atom.body, &[b"mdia", b"hdlr"])?.get(8..12) == Some(b"vide") {
            return Ok(atom.body);
        }
    }
    Err(Fault::unusable(NO_VIDEO))
}

/// The track's number and how its pictures are turned for display.
fn track_header(tkhd: &[u8]) -> Result<(u32, Turn), Fault> {
    let (mut fields, version, _) = Fields::versioned("tkhd", tkhd)?;
    fields.bytes(if version == 1 { 16 } else { 8 })?;
    let track = fields.u32()?;
    // Up to the matrix: reserved, duration, reserved, layer, group, volume, reserved.
    fields.bytes(4 + if version == 1 { 8 } else { 4 } + 16)?;
    let mut matrix = [0; 5];
    for value in &mut matrix {
        *value = fields.i32()?;
    }
    let [a, b, _, c, d] = matrix;
    let foreign = || Fault::foreign("its pictures are shown at an odd angle or scaled");
    Ok((track, Turn::from_matrix([a, b, c, d]).ok_or_else(foreign)?))
}

fn timescale(name: &'static str, body: &[u8]) -> Result<u32, Reason> {
    let (mut fields, version, _) = Fields::versioned(name, body)?;
    fields.bytes(if version == 1 { 16 } else { 8 })?;
    let ticks = fields.u32()?;
    if ticks == 0 { Err(format!("the box `{name}` announces 0 ticks per second").into()) } else { Ok(ticks) }
}

/// The part of the track that the edit list shows, if it is one stretch at normal speed; otherwise the whole track.
fn edit(moov: &[u8], trak: &[u8], ticks_per_second: u32) -> Result<Shown, Reason> {
    let Some(elst) = find(trak, b"edts")?.map(|edts| find(edts, b"elst")).transpose()?.flatten() else {
        return Ok(Shown::ALL);
    };
    let (mut fields, version, _) = Fields::versioned("elst", elst)?;
    let mut kept = Vec::new();
    // A list with more entries than these is not one stretch.
    for _ in 0..fields.u32()?.min(4) {
        let (length, from) = (fields.wide(version)?, fields.wide(version)?);
        let from = if version == 1 { from as i64 } else { i64::from(from as i32) };
        let speed = fields.u32()?;
        // An empty edit, with a negative start, only delays the track.
        if from >= 0 {
            kept.push((length, from, speed));
        }
    }
    let [(length, from, 0x1_0000)] = kept[..] else {
        return Ok(Shown::ALL);
    };
    let movie = timescale("mvhd", require(moov, &[b"mvhd"])?)?;
    let length = u128::from(length) * u128::from(ticks_per_second) / u128::from(movie);
    // The length of a fragmented file is not known beforehand, and given as 0.
    let until = if length == 0 { i64::MAX } else { from.saturating_add(i64::try_from(length).unwrap_or(i64::MAX)) };
    Ok(Shown { from, until })
}

impl Config {
    fn read(stsd: &[u8]) -> Result<Self, Fault> {
        let (mut fields, ..) = Fields::versioned("stsd", stsd)?;
        let kinds = fields.u32()?;
        let entry = Atoms::new(fields.rest()).next().ok_or_else(|| Fault::damaged("the box `stsd` is empty"))?;
        let entry = entry?;
        if !matches!(&entry.name.0, b"avc1" | b"avc3") {
            return Err(Fault::foreign(format!("its video is {}, not H.264", Name(entry.name.0))));
        }
        if kinds != 1 {
            return Err(Fault::foreign(format!("its frames are coded in {kinds} different ways")));
        }
        let mut entry = Fields::new("avc1", entry.body);
        entry.bytes(78)?;
        let mut config = Self::headers(require(entry.rest(), &[b"avcC"])?)?;
        config.colour = find(entry.rest(), b"colr")?.and_then(Colour::from_box);
        Ok(config)
    }

    fn headers(avcc: &[u8]) -> Result<Self, Reason> {
        let mut fields = Fields::new("avcC", avcc);
        fields.bytes(4)?;
        let length_bytes = usize::from(fields.u8()? & 3) + 1;
        let mut headers = Vec::new();
        // First the sequence, then the picture headers.
        for mask in [0x1f, 0xff] {
            for _ in 0..fields.u8()? & mask {
                let length = fields.u16()?;
                headers.push(fields.bytes(length.into())?.to_vec());
            }
        }
        Ok(Self { length_bytes, headers, colour: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_is_shows_at_its_top() {
        let top = |bytes: &[u8]| {
            let contents = Contents::of_bytes(bytes.into());
            top(&contents).map(|(_, moov)| contents.body(&moov).unwrap())
        };
        assert!(matches!(top(b"hello, this is plain text"), Err(Fault::Foreign(_))));
        assert!(matches!(top(b""), Err(Fault::Foreign(_))));
        assert!(matches!(top(b"\0\0\0\x08ftyp"), Err(Fault::Damaged(reason)) if reason.text().contains("`moov`")));
        assert!(matches!(top(b"\0\0\0\x10ftyp"), Err(Fault::Damaged(reason)) if reason.text().contains("cut off")));
        assert_eq!(top(b"\0\0\0\x08ftyp\0\0\0\x0amoovxyappended junk").unwrap(), b"xy");
    }

    #[test]
    fn all_headers_are_taken() {
        let config = Config::headers(&[1, 100, 0, 30, 0xff, 0xe1, 0, 2, 0x67, 1, 2, 0, 1, 0x68, 0, 1, 0x69]).unwrap();
        assert_eq!(config.length_bytes, 4);
        assert_eq!(config.headers, [vec![0x67, 1], vec![0x68], vec![0x69]]);
    }
}
