//! MP4 and MOV files with H.264, read without an external program.

mod bits;
mod colour;
mod contents;
mod decoder;
mod fragments;
mod h264;
mod movie;
mod samples;
mod sequence;
mod units;

use std::collections::BTreeMap;

pub(crate) use self::contents::Contents;
use self::decoder::{Frames, Look};
use self::movie::{Config, Movie, Shown};
use self::samples::Sample;
pub(crate) use self::sequence::MOST_PIXELS;
use self::units::{Role, Units};
use super::track::Timing;
use crate::boxes::Fault;
use crate::image::{Pixels, resize};
use crate::reason::Reason;
use crate::{MediaError, Result};

/// Most pictures that H.264 keeps, and so the longest delay between decoding a picture and showing it.
const LONGEST_DELAY: usize = 16;

/// A video whose frames can be decoded here.
#[derive(Debug)]
pub(crate) struct Mp4Video {
    file: Contents,
    origin: String,
    timing: Timing,
    /// In order of decoding.
    samples: Vec<(Sample, Role)>,
    /// For each frame in order of time, which sample it is.
    order: Vec<u32>,
    length_bytes: usize,
    headers: Vec<Vec<u8>>,
    look: Look,
}

/// What came of reading a file.
pub(crate) enum Attempt<T> {
    Done(T),
    /// The reason why another reader should try.
    Foreign(Reason),
}

impl<T> Attempt<T> {
    fn of(read: Result<T, Fault>, origin: &str) -> Result<Self> {
        match read {
            Ok(done) => Ok(Self::Done(done)),
            Err(Fault::Foreign(reason)) => Ok(Self::Foreign(reason)),
            Err(Fault::Damaged(reason)) => Err(MediaError::damaged(origin, reason)),
            Err(Fault::Unusable(reason)) => Err(MediaError::unusable(origin, reason)),
        }
    }
}

impl Mp4Video {
    /// Finds the frames.
    ///
    /// # Errors
    /// [`MediaError::Damaged`] if the file is broken or cut off, [`MediaError::Unusable`] if there is nothing to show
    /// or the frames are too large.
    pub(crate) fn open(file: Contents, origin: &str) -> Result<Attempt<Self>> {
        Attempt::of(Self::read(file, origin), origin)
    }

    fn read(file: Contents, origin: &str) -> Result<Self, Fault> {
        let Movie { samples, ticks_per_second, turn, shown, config } = Movie::read(&file)?;
        let order = order(&samples, shown)?;
        let timing = timing(&samples, &order, shown, ticks_per_second);
        let (samples, look) = inspect(&file, samples, &config, turn)?;
        let Config { length_bytes, headers, .. } = config;
        let video = Self { file, origin: origin.into(), timing, samples, order, length_bytes, headers, look };
        video.probe()?;
        Ok(video)
    }

    /// Tests whether the decoder takes the first picture, which reveals most of what it cannot do.
    fn probe(&self) -> Result<(), Fault> {
        let mut frames = Frames::new(self.length_bytes, &self.headers)?;
        let mut first = Vec::new();
        if let Some((sample, _)) = self.samples.first() {
            sample.read(&self.file, &mut first)?;
        }
        let foreign = |reason: Reason| {
            Fault::Foreign(reason.reworded(|why| format!("its first frame cannot be decoded here: {why}")))
        };
        match frames.decode(&first) {
            Ok(picture) => picture.pixels(&self.look).map(|_| ()).ok_or_else(|| foreign("it has another size".into())),
            Err(fault) => Err(foreign(fault.into_reason())),
        }
    }

    /// When the frames are shown.
    pub(crate) fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Height and width of the frames, upright.
    pub(crate) fn size(&self) -> [usize; 2] {
        self.look.size()
    }

    /// Passes the wanted frames (ascending indices in order of time) to `sink`, upright and resized to `[height, width]`.
    ///
    /// # Errors
    /// [`MediaError::Damaged`] if a frame on the way cannot be decoded; what `sink` returns.
    pub(crate) fn decode(
        &self,
        wanted: &[usize],
        [height, width]: [usize; 2],
        sink: &mut dyn FnMut(Pixels) -> Result<()>,
    ) -> Result<()> {
        let places = self.places(wanted)?;
        let mut frames = Frames::new(self.length_bytes, &self.headers).map_err(|fault| self.broken(0, fault))?;
        // Frames that were decoded before another that is shown earlier.
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        let mut sample = Vec::new();
        for (index, needed) in self.needed(&places).into_iter().enumerate() {
            self.samples[index].0.read(&self.file, &mut sample).map_err(|fault| self.broken(index, fault))?;
            if !needed {
                frames.skip(&sample).map_err(|fault| self.broken(index, fault))?;
                continue;
            }
            let picture = frames.decode(&sample).map_err(|fault| self.broken(index, fault))?;
            if let Some(place) = places.get(&index) {
                let other = || self.broken(index, Fault::damaged("it has another size than announced"));
                let pixels = picture.pixels(&self.look).ok_or_else(other)??;
                waiting.insert(*place, resize(&pixels, width, height));
            }
            while let Some(pixels) = waiting.remove(&next) {
                sink(pixels)?;
                next += 1;
            }
        }
        Ok(())
    }

    /// For each sample up to the last wanted one, whether it must be decoded.
    fn needed(&self, places: &BTreeMap<usize, usize>) -> Vec<bool> {
        let end = places.last_key_value().map_or(0, |(last, _)| last + 1);
        let mut skip_until = 0;
        let mut need = |(index, (_, role)): (usize, &(Sample, Role))| {
            if *role == Role::Key {
                skip_until = self.unneeded(index, places);
            }
            index >= skip_until && (*role != Role::Alone || places.contains_key(&index))
        };
        self.samples[..end].iter().enumerate().map(&mut need).collect()
    }

    /// For each wanted sample, the index of its frame among the wanted ones.
    fn places(&self, wanted: &[usize]) -> Result<BTreeMap<usize, usize>> {
        let count = self.order.len();
        let sample = |(place, index): (usize, &usize)| match self.order.get(*index) {
            Some(sample) => Ok((*sample as usize, place)),
            None => Err(MediaError::unusable(&self.origin, format!("frame {} of {count} was asked for", index + 1))),
        };
        wanted.iter().enumerate().map(sample).collect()
    }

    /// The sample at which decoding continues: the next key frame, if nothing before it is wanted, else `index`.
    fn unneeded(&self, index: usize, places: &BTreeMap<usize, usize>) -> usize {
        let rest = self.samples.iter().enumerate().skip(index + 1);
        let next = rest.clone().find(|(_, (_, role))| *role == Role::Key).map_or(self.samples.len(), |(next, _)| next);
        if places.range(index..next).next().is_none() { next } else { index }
    }

    fn broken(&self, index: usize, fault: Fault) -> MediaError {
        let count = self.samples.len();
        let broken = |why: &str| format!("frame {} of {count} is broken: {why}", index + 1);
        MediaError::damaged(&self.origin, fault.into_reason().reworded(broken))
    }
}

/// Whether there is a sound track that has any sound.
///
/// # Errors
/// [`MediaError::Damaged`] if the file is broken or cut off.
pub(crate) fn has_sound(file: &Contents, origin: &str) -> Result<Attempt<bool>> {
    Attempt::of(movie::has_sound(file), origin)
}

/// The samples in order of time, without those that the edit list hides.
fn order(samples: &[Sample], shown: Shown) -> Result<Vec<u32>, Fault> {
    let mut order: Vec<u32> = (0..samples.len() as u32).collect();
    order.sort_by_key(|index| samples[*index as usize].shown);
    let late = |(rank, index): (usize, &u32)| *index as usize > rank + LONGEST_DELAY;
    if order.iter().enumerate().any(late) {
        return Err(Fault::damaged(format!("frames are shown more than {LONGEST_DELAY} frames out of order")));
    }
    let visible = |index: &u32| (shown.from..shown.until).contains(&samples[*index as usize].shown);
    if order.iter().any(visible) {
        order.retain(visible);
    }
    if order.is_empty() { Err(Fault::unusable("the video has no frames")) } else { Ok(order) }
}

fn timing(samples: &[Sample], order: &[u32], shown: Shown, ticks_per_second: u32) -> Timing {
    let frames = || order.iter().map(|index| &samples[*index as usize]);
    let starts: Vec<i64> = frames().map(|sample| sample.shown).collect();
    let (first, last) = starts.first().copied().zip(starts.last().copied()).unwrap_or_default();
    // Lengths count from one decoding time to the next, so only their sum can tell when the last frame ends.
    let sum = frames().fold(first, |end, sample| end.saturating_add(sample.length.into()));
    let ends = [sum, shown.until].into_iter().filter(|end| *end > last && *end < i64::MAX);
    Timing::new(starts, ends.min().map_or(0, |end| end.saturating_sub(last)), ticks_per_second.into())
}

/// Inspects every sample without decoding it: its units must be whole, and its headers of a kind that can be decoded.
fn inspect(
    file: &Contents,
    samples: Vec<Sample>,
    config: &Config,
    turn: colour::Turn,
) -> Result<(Vec<(Sample, Role)>, Look), Fault> {
    let mut sequences = Vec::new();
    for unit in config.headers.iter().filter(|unit| units::is_sequence(unit)) {
        sequences.push(sequence::read(unit)?.0);
    }
    let (mut inspected, mut bytes) = (Vec::with_capacity(samples.len()), Vec::new());
    for sample in samples {
        let frame = inspected.len() + 1;
        sample.read(file, &mut bytes).map_err(|fault| in_frame(frame, fault))?;
        let role = units::role(&bytes, config.length_bytes).map_err(|fault| in_frame(frame, fault))?;
        for unit in Units::new(&bytes, config.length_bytes).flatten().filter(|unit| units::is_sequence(unit)) {
            let sequence = sequence::read(unit).map_err(|fault| in_frame(frame, fault))?.0;
            sequences.push(sequence);
            sequences.dedup();
        }
        inspected.push((sample, role));
    }
    if inspected.first().is_some_and(|(_, role)| *role != Role::Key) {
        return Err(Fault::foreign("it does not begin with a key frame"));
    }
    sequences.dedup();
    match sequences[..] {
        [one] => Ok((inspected, Look::new((one.width, one.height), one.colour.or(config.colour), turn)?)),
        [] => Err(Fault::damaged("there is no sequence header")),
        _ => Err(Fault::foreign("the size or colour of its pictures changes")),
    }
}

fn in_frame(number: usize, fault: Fault) -> Fault {
    fault.reworded(|why| format!("frame {number}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(shown: impl IntoIterator<Item = i64>) -> Vec<Sample> {
        shown.into_iter().map(|shown| Sample { offset: 0, size: 0, length: 10, shown }).collect()
    }

    #[test]
    fn frames_are_ordered_by_time_and_cut_by_the_edit_list() {
        let samples = samples([10, 40, 20, 30]);
        let all = Shown { from: i64::MIN, until: i64::MAX };
        assert_eq!(order(&samples, all).unwrap(), [0, 2, 3, 1]);
        let shown = Shown { from: 15, until: 39 };
        let order = order(&samples, shown).unwrap();
        assert_eq!(order, [2, 3]);
        let timing = timing(&samples, &order, shown, 10);
        assert_eq!((timing.timestamps, timing.duration), (vec![0, 10], 19));
    }

    #[test]
    fn the_last_frame_ends_where_the_lengths_or_the_edit_list_say() {
        let (samples, order) = (samples([0, 100]), [0, 1]);
        let ends = |until| timing(&samples, &order, Shown { from: 0, until }, 10).duration;
        assert_eq!((ends(140), ends(i64::MAX)), (140, 200));
    }

    #[test]
    fn an_edit_list_that_hides_everything_is_ignored() {
        assert_eq!(order(&samples([10, 20]), Shown { from: 50, until: 60 }).unwrap(), [0, 1]);
        assert!(matches!(order(&[], Shown { from: 0, until: 1 }), Err(Fault::Unusable(_))));
    }

    #[test]
    fn frames_far_out_of_order_are_refused() {
        let mut shown: Vec<i64> = (1..=17).collect();
        shown.push(0);
        assert!(matches!(order(&samples(shown), Shown { from: 0, until: 100 }), Err(Fault::Damaged(_))));
    }
}
