//! Which part of an MP4 file's sound is heard: its edit list, or the encoder's delay that iTunes notes.

use super::file::Contents;
use crate::Result;
use crate::reason::Reason;

/// One part of what is heard.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Part {
    /// Silence of this length, in ticks of the track.
    Silence(u64),
    /// The track between two times, in its ticks.
    Track { from: i64, until: i64 },
}

/// What is heard of a track, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Edits {
    pub(crate) parts: Vec<Part>,
    pub(crate) ticks_per_second: u32,
}

/// Most entries of a list and most boxes in one box; a bound against hostile files.
const MOST: usize = 1 << 12;

/// Most bytes of a box that is read.
const MOST_BYTES: usize = 1 << 16;

/// Longest silence in front of or between sounds.
const MOST_SECONDS: u64 = 24 * 3600;

/// A box: its name and where its contents lie.
#[derive(Debug, Clone, Copy)]
struct Atom {
    name: [u8; 4],
    body: u64,
    end: u64,
}

impl Edits {
    /// Reads what is heard of each track, by the track's number; tracks of which the file says nothing are left out.
    ///
    /// # Errors
    /// [`crate::MediaError::Unsupported`] for parts that go back in time or run at another speed; [`crate::MediaError::Damaged`] if the file
    /// cannot be read.
    pub(crate) fn read(contents: &mut Contents) -> Result<Vec<(u32, Self)>> {
        let file = Atom { name: *b"file", body: 0, end: contents.len() };
        let Some(moov) = contents.child(file, b"moov")? else { return Ok(Vec::new()) };
        let mut edits = Vec::new();
        // Once for all tracks: a file may have thousands.
        let (movie, delay) = (contents.timescale(moov, &[b"mvhd"])?, contents.noted_delay(moov)?);
        for trak in contents.children(moov)?.into_iter().filter(|atom| atom.name == *b"trak") {
            // What is odd about the edits of pictures is no concern of the sound's.
            if contents.is_sound(trak)?
                && let Some(track) = contents.track_number(trak)?
            {
                edits.extend(contents.edits(trak, movie, delay)?.map(|edits| (track, edits)));
            }
        }
        Ok(edits)
    }
}

impl Contents {
    fn children(&mut self, parent: Atom) -> Result<Vec<Atom>> {
        let mut children = Vec::new();
        let mut at = parent.body;
        while children.len() < MOST && at + 8 <= parent.end {
            let Some([a, b, c, d, name @ ..]) = self.array::<8>(at)? else { break };
            let (header, size) = match u32::from_be_bytes([a, b, c, d]) {
                0 => (8, parent.end - at),
                1 => (16, self.array(at + 8)?.map_or(0, u64::from_be_bytes)),
                size => (8, u64::from(size)),
            };
            let end = at.saturating_add(size);
            if size < header || end > parent.end {
                break;
            }
            children.push(Atom { name, body: at + header, end });
            at = end;
        }
        Ok(children)
    }

    fn child(&mut self, parent: Atom, name: &[u8; 4]) -> Result<Option<Atom>> {
        Ok(self.children(parent)?.into_iter().find(|atom| atom.name == *name))
    }

    fn descendant(&mut self, mut atom: Atom, path: &[&[u8; 4]]) -> Result<Option<Atom>> {
        for name in path {
            let Some(child) = self.child(atom, name)? else { return Ok(None) };
            atom = child;
        }
        Ok(Some(atom))
    }

    fn body(&mut self, atom: Atom) -> Result<Vec<u8>> {
        self.bytes(atom.body, ((atom.end - atom.body) as usize).min(MOST_BYTES))
    }

    fn is_sound(&mut self, trak: Atom) -> Result<bool> {
        let Some(hdlr) = self.descendant(trak, &[b"mdia", b"hdlr"])? else { return Ok(false) };
        Ok(self.array::<4>(hdlr.body + 8)? == Some(*b"soun"))
    }

    fn track_number(&mut self, trak: Atom) -> Result<Option<u32>> {
        let Some(tkhd) = self.child(trak, b"tkhd")? else { return Ok(None) };
        let body = self.body(tkhd)?;
        Ok(number(&body, if body.first() == Some(&1) { 20 } else { 12 }))
    }

    /// Ticks per second, from `mvhd` or `mdhd`.
    fn timescale(&mut self, parent: Atom, path: &[&[u8; 4]]) -> Result<Option<u32>> {
        let Some(header) = self.descendant(parent, path)? else { return Ok(None) };
        let body = self.body(header)?;
        Ok(number(&body, if body.first() == Some(&1) { 20 } else { 12 }).filter(|ticks| *ticks > 0))
    }

    /// The edits of a track of a movie with `movie` ticks per second, or else the encoder's `delay` that the file notes.
    fn edits(&mut self, trak: Atom, movie: Option<u32>, delay: Option<u32>) -> Result<Option<Edits>> {
        let Some(ticks_per_second) = self.timescale(trak, &[b"mdia", b"mdhd"])? else { return Ok(None) };
        let movie = movie.unwrap_or(ticks_per_second);
        if let Some(elst) = self.descendant(trak, &[b"edts", b"elst"])? {
            let body = self.body(elst)?;
            let parts = parts(&body, ticks_per_second, movie).map_err(|reason| self.unsupported(reason))?;
            if parts.iter().any(|part| matches!(part, Part::Track { .. })) {
                let silent = parts.iter().map(|part| if let Part::Silence(ticks) = part { *ticks } else { 0 });
                if silent.fold(0, u64::saturating_add) / u64::from(ticks_per_second) > MOST_SECONDS {
                    return Err(self.unusable("its edit list has more than a day of silence"));
                }
                // A list that hides nothing may stand beside the note of iTunes.
                if parts != [Part::Track { from: 0, until: i64::MAX }] {
                    return Ok(Some(Edits { parts, ticks_per_second }));
                }
            }
        }
        let part = delay.map(|delay| Part::Track { from: delay.into(), until: i64::MAX });
        Ok(part.map(|part| Edits { parts: vec![part], ticks_per_second }))
    }

    /// The encoder's delay in samples, as iTunes notes it in a tag of text.
    fn noted_delay(&mut self, moov: Atom) -> Result<Option<u32>> {
        let Some(mut meta) = self.descendant(moov, &[b"udta", b"meta"])? else { return Ok(None) };
        // Version and flags, which QuickTime omits.
        if self.array::<4>(meta.body + 4)? != Some(*b"hdlr") {
            meta.body += 4;
        }
        let Some(list) = self.child(meta, b"ilst")? else { return Ok(None) };
        for tag in self.children(list)?.into_iter().filter(|atom| atom.name == *b"----") {
            let name = self.child(tag, b"name")?.map(|name| self.body(name)).transpose()?;
            if name.is_some_and(|name| name.ends_with(b"iTunSMPB")) {
                let data = self.child(tag, b"data")?.map(|data| self.body(data)).transpose()?.unwrap_or_default();
                return Ok(delay(&String::from_utf8_lossy(&data)));
            }
        }
        Ok(None)
    }
}

/// The delay in a text of hexadecimal numbers: 0, the delay, the padding, the length.
fn delay(text: &str) -> Option<u32> {
    const MOST_DELAY: u32 = 1 << 14;
    let delay = text.split_whitespace().filter(|word| word.len() == 8).nth(1)?;
    u32::from_str_radix(delay, 16).ok().filter(|delay| (1..MOST_DELAY).contains(delay))
}

fn number(body: &[u8], at: usize) -> Option<u32> {
    body.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The parts of an edit list.
fn parts(elst: &[u8], ticks_per_second: u32, movie: u32) -> Result<Vec<Part>, Reason> {
    let wide = elst.first() == Some(&1);
    let entry = if wide { 20 } else { 12 };
    let count = number(elst, 4).unwrap_or(0) as usize;
    let mut parts = Vec::new();
    let mut latest = i64::MIN;
    for entry in elst.get(8..).unwrap_or_default().chunks_exact(entry).take(count.min(MOST)) {
        let (length, from) = times(entry, wide);
        let length = u128::from(length) * u128::from(ticks_per_second);
        let ticks = u64::try_from(length.div_ceil(u128::from(movie))).unwrap_or(u64::MAX);
        if from < 0 {
            parts.push(Part::Silence(ticks));
            continue;
        }
        if !entry.ends_with(&[0, 1, 0, 0]) || from < latest {
            return Err("its edit list repeats a part of the sound, or plays it at another speed".into());
        }
        // The length of a fragmented file is not known beforehand, and given as 0.
        latest = if ticks == 0 { i64::MAX } else { from.saturating_add_unsigned(ticks) };
        parts.push(Part::Track { from, until: latest });
    }
    Ok(parts)
}

/// The length and the start of an entry.
fn times(entry: &[u8], wide: bool) -> (u64, i64) {
    let word = |at| number(entry, at).unwrap_or(0);
    let long = |at| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    if wide { (long(0), long(8) as i64) } else { (word(0).into(), (word(4) as i32).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u32, i32, u32)]) -> Vec<u8> {
        let mut elst = vec![0; 4];
        elst.extend((entries.len() as u32).to_be_bytes());
        for (length, from, speed) in entries {
            [*length, *from as u32, *speed].iter().for_each(|word| elst.extend(word.to_be_bytes()));
        }
        elst
    }

    #[test]
    fn lists_become_parts_in_ticks_of_the_track() {
        let list = list(&[(500, -1, 0x1_0000), (1500, 1024, 0x1_0000), (0, 60_000, 0x1_0000)]);
        let expected = [
            Part::Silence(8000),
            Part::Track { from: 1024, until: 25_024 },
            Part::Track { from: 60_000, until: i64::MAX },
        ];
        assert_eq!(parts(&list, 16_000, 1000).unwrap(), expected);
    }

    #[test]
    fn what_goes_back_or_runs_at_another_speed_is_left_to_others() {
        assert!(parts(&list(&[(10, 100, 0x1_0000), (10, 0, 0x1_0000)]), 1000, 1000).is_err());
        assert!(parts(&list(&[(10, 0, 0x8000)]), 1000, 1000).is_err());
    }

    #[test]
    fn the_note_of_itunes_holds_the_delay() {
        let text = " 00000000 00000840 000001CA 00000000003F31F6 00000000";
        assert_eq!(delay(text), Some(0x840));
        assert_eq!(delay(" 00000000 00000000 00000000 0000000000000000"), None);
        assert_eq!(delay("nothing"), None);
    }
}
