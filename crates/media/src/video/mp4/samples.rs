//! Where each coded frame lies and when it is shown, from the tables of a whole (not fragmented) file.

use super::contents::Contents;
use crate::boxes::{Fault, Fields, entry_u32, find, require};
use crate::reason::Reason;

/// Most samples: more than a day and a half at 30 frames per second; a bound for what is kept in memory.
const MOST_SAMPLES: usize = 1 << 22;

/// One coded frame, in order of decoding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) offset: u64,
    pub(super) size: u32,
    /// For how long it is shown, in ticks.
    pub(super) length: u32,
    /// When it is shown, in ticks.
    pub(super) shown: i64,
}

impl Sample {
    /// Reads its bytes, which were checked to be there, into `buffer`.
    pub(super) fn read(&self, file: &Contents, buffer: &mut Vec<u8>) -> Result<(), Fault> {
        file.read(self.offset, self.size.into(), buffer)
    }
}

/// Samples gathered so far. Each must lie inside the file, and all together cannot be larger than it.
pub(super) struct Samples {
    pub(super) list: Vec<Sample>,
    file_len: u64,
    bytes: u64,
}

impl Samples {
    pub(super) fn new(file_len: u64) -> Self {
        Self { list: Vec::new(), file_len, bytes: 0 }
    }

    pub(super) fn push(&mut self, sample: Sample) -> Result<(), Fault> {
        let number = self.list.len() + 1;
        if number > MOST_SAMPLES {
            return Err(Fault::unusable(format!("the video has more than {MOST_SAMPLES} frames")));
        }
        let file = self.file_len;
        let end = sample.offset.saturating_add(u64::from(sample.size));
        if end > self.file_len {
            let reason = format!("frame {number} ends at byte {end}, but the file has {file} bytes: it is cut off");
            return Err(Fault::damaged(reason));
        }
        if sample.size == 0 {
            return Err(Fault::foreign(format!("its frame {number} is empty")));
        }
        self.bytes += u64::from(sample.size);
        if self.bytes > self.file_len {
            let reason = format!("{number} frames have {} bytes, but the file has {file}: they overlap", self.bytes);
            return Err(Fault::damaged(reason));
        }
        self.list.push(sample);
        Ok(())
    }
}

/// Run-length coded values: each holds for a number of samples.
struct Runs<'a> {
    entries: std::slice::Iter<'a, [u8; 8]>,
    left: u32,
    value: u32,
}

impl<'a> Runs<'a> {
    fn new(entries: &'a [[u8; 8]]) -> Self {
        Self { entries: entries.iter(), left: 0, value: 0 }
    }
}

impl Iterator for Runs<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        while self.left == 0 {
            let entry = self.entries.next()?;
            (self.left, self.value) = (entry_u32(entry, 0), entry_u32(entry, 4));
        }
        self.left -= 1;
        Some(self.value)
    }
}

/// The size of every sample, either one for all or one each.
enum Sizes<'a> {
    Same(u32),
    Each(&'a [[u8; 4]]),
}

impl<'a> Sizes<'a> {
    fn read(stbl: &'a [u8], file_len: u64) -> Result<(Self, usize), Fault> {
        let Some(body) = find(stbl, b"stsz")? else {
            let compact = find(stbl, b"stz2")?.is_some();
            let fault = if compact { Fault::foreign } else { Fault::damaged };
            return Err(fault("the box `stsz` with the frames' sizes is missing"));
        };
        let (mut fields, ..) = Fields::versioned("stsz", body)?;
        let same = fields.u32()?;
        if same == 0 {
            let each = fields.table()?;
            return Ok((Sizes::Each(each), each.len()));
        }
        let count = fields.u32()?;
        if u64::from(count) * u64::from(same) > file_len {
            let reason = format!("{count} frames of {same} bytes are more than the file's {file_len}: it is cut off");
            return Err(Fault::damaged(reason));
        }
        Ok((Sizes::Same(same), count as usize))
    }

    fn of(&self, index: usize) -> u32 {
        match self {
            Sizes::Same(size) => *size,
            Sizes::Each(sizes) => sizes.get(index).map_or(0, |size| u32::from_be_bytes(*size)),
        }
    }
}

/// The offsets of the chunks, in which samples lie one after the other.
enum Chunks<'a> {
    Narrow(&'a [[u8; 4]]),
    Wide(&'a [[u8; 8]]),
}

impl<'a> Chunks<'a> {
    fn read(stbl: &'a [u8]) -> Result<Self, Reason> {
        if let Some(body) = find(stbl, b"stco")? {
            return Ok(Chunks::Narrow(Fields::versioned("stco", body)?.0.table()?));
        }
        Ok(Chunks::Wide(Fields::versioned("co64", require(stbl, &[b"co64"])?)?.0.table()?))
    }

    fn offset(&self, index: usize) -> Option<u64> {
        match self {
            Chunks::Narrow(offsets) => offsets.get(index).map(|offset| u64::from(u32::from_be_bytes(*offset))),
            Chunks::Wide(offsets) => offsets.get(index).map(|offset| u64::from_be_bytes(*offset)),
        }
    }
}

/// How many samples the chunks have, from a table that names the first chunk of each change.
struct PerChunk<'a> {
    runs: &'a [[u8; 12]],
    at: usize,
}

impl PerChunk<'_> {
    /// Samples in the chunk of this index; indices must not fall from call to call.
    fn count(&mut self, chunk: usize) -> u32 {
        while self.runs.get(self.at + 1).is_some_and(|run| entry_u32(run, 0) as usize <= chunk + 1) {
            self.at += 1;
        }
        self.runs.get(self.at).map_or(0, |run| entry_u32(run, 4))
    }
}

fn table8<'a>(name: &'static str, body: Option<&'a [u8]>) -> Result<&'a [[u8; 8]], Reason> {
    body.map_or(Ok(&[]), |body| Fields::versioned(name, body)?.0.table())
}

/// Appends the samples of a track's sample table.
pub(super) fn read(stbl: &[u8], samples: &mut Samples) -> Result<(), Fault> {
    let (sizes, count) = Sizes::read(stbl, samples.file_len)?;
    let chunks = Chunks::read(stbl)?;
    let runs = Fields::versioned("stsc", require(stbl, &[b"stsc"])?)?.0.table()?;
    let mut per_chunk = PerChunk { runs, at: 0 };
    let mut lengths = Runs::new(table8("stts", Some(require(stbl, &[b"stts"])?))?);
    let mut delays = Runs::new(table8("ctts", find(stbl, b"ctts")?)?);
    let (mut decoded, mut chunk, mut index) = (0i64, 0, 0);
    while index < count {
        let places = || Fault::damaged(format!("the tables place {index} of {count} frames"));
        let mut offset = chunks.offset(chunk).ok_or_else(places)?;
        for _ in 0..per_chunk.count(chunk).min((count - index) as u32) {
            let times = || Fault::damaged(format!("the box `stts` has times for {index} of {count} frames"));
            let (size, length) = (sizes.of(index), lengths.next().ok_or_else(times)?);
            let shown = decoded.saturating_add(i64::from(delays.next().unwrap_or(0) as i32));
            samples.push(Sample { offset, size, length, shown })?;
            decoded = decoded.saturating_add(i64::from(length));
            offset = offset.saturating_add(u64::from(size));
            index += 1;
        }
        chunk += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(name: &[u8; 4], words: &[u32]) -> Vec<u8> {
        let mut atom = (12 + 4 * words.len() as u32).to_be_bytes().to_vec();
        atom.extend(name);
        atom.extend([0; 4]);
        atom.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        atom
    }

    fn table(sizes: &[u32]) -> Vec<u8> {
        let stsc = full(b"stsc", &[2, 1, 2, 1, 2, 1, 1]);
        let stco = full(b"stco", &[2, 100, 200]);
        let (stts, ctts) = (full(b"stts", &[2, 2, 10, 1, 5]), full(b"ctts", &[2, 1, 3, 1, -3i32 as u32]));
        [full(b"stsz", sizes), stsc, stco, stts, ctts].concat()
    }

    #[test]
    fn tables_place_and_time_the_samples() {
        let mut samples = Samples::new(300);
        read(&table(&[0, 3, 7, 8, 9]), &mut samples).unwrap();
        let rows: Vec<_> = samples.list.iter().map(|s| (s.offset, s.size, s.length, s.shown)).collect();
        assert_eq!(rows, [(100, 7, 10, 3), (107, 8, 10, 7), (200, 9, 5, 20)]);
    }

    #[test]
    fn samples_beyond_the_end_or_without_place_are_damage() {
        let cut = read(&table(&[0, 3, 7, 8, 9]), &mut Samples::new(208));
        assert!(matches!(cut, Err(Fault::Damaged(reason)) if reason.text().contains("frame 3 ends at byte 209")));
        let more = read(&table(&[0, 4, 7, 8, 9, 9]), &mut Samples::new(300));
        assert!(matches!(more, Err(Fault::Damaged(reason)) if reason.text().contains("place 3 of 4")));
        let many = read(&table(&[1, u32::MAX]), &mut Samples::new(300));
        assert!(matches!(many, Err(Fault::Damaged(reason)) if reason.text().contains("more than the file's 300")));
    }

    #[test]
    fn samples_that_share_their_bytes_or_have_none_are_refused() {
        let sample = Sample { offset: 10, size: 60, length: 1, shown: 0 };
        let mut samples = Samples::new(100);
        samples.push(sample).unwrap();
        assert!(matches!(samples.push(sample), Err(Fault::Damaged(reason)) if reason.text().contains("overlap")));
        assert!(matches!(samples.push(Sample { size: 0, ..sample }), Err(Fault::Foreign(_))));
    }
}
