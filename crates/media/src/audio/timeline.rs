//! Which frames of a packet are heard.

use std::collections::VecDeque;
use std::ops::Range;

use super::contents::{Edits, Part};

/// Longest packet, in frames, that is kept whole at the end of what is heard, as other players do with coded sound.
const WHOLE: usize = 4096;

/// What is still to be heard of a track.
#[derive(Debug)]
pub(super) enum Timeline {
    /// By an edit list, in ticks.
    Edited { parts: VecDeque<Part>, ticks_per_second: u32 },
    /// All but some frames at the start.
    All { skip: u64 },
}

/// What is heard of a packet: some frames of silence, then some of its own.
#[derive(Debug, PartialEq)]
pub(super) struct Heard {
    pub(super) silence: u64,
    pub(super) frames: Range<usize>,
}

impl Timeline {
    /// Makes the timeline of a track with an edit list, or of one whose decoder needs `pre_skip` frames before what is heard.
    ///
    /// An edit list hides those frames too.
    pub(super) fn new(edits: Option<Edits>, pre_skip: u64) -> Self {
        match edits {
            Some(Edits { parts, ticks_per_second }) => Self::Edited { parts: parts.into(), ticks_per_second },
            None => Self::All { skip: pre_skip },
        }
    }

    /// What is heard of a packet of `frames` frames that begins at `start` ticks; `None` behind the end of what is heard.
    pub(super) fn place(&mut self, start: i64, frames: usize, rate: u32) -> Option<Heard> {
        match self {
            Self::All { skip } => {
                let skipped = usize::try_from(*skip).unwrap_or(usize::MAX).min(frames);
                *skip -= skipped as u64;
                Some(Heard { silence: 0, frames: skipped..frames })
            }
            Self::Edited { parts, ticks_per_second } => {
                let ticks_per_second = u64::from(*ticks_per_second);
                let count = |ticks: u64| {
                    let frames = u128::from(ticks) * u128::from(rate) / u128::from(ticks_per_second);
                    u64::try_from(frames).unwrap_or(u64::MAX)
                };
                heard(parts, start, frames, &count)
            }
        }
    }
}

/// `count` gives the frames of a number of ticks.
fn heard(parts: &mut VecDeque<Part>, start: i64, frames: usize, count: &dyn Fn(u64) -> u64) -> Option<Heard> {
    let mut silence = 0;
    loop {
        match *parts.front()? {
            Part::Silence(ticks) => silence += count(ticks),
            Part::Track { until, .. } if start >= until => (),
            Part::Track { from, until } => {
                let at =
                    |time: i64| usize::try_from(count(time.saturating_sub(start).max(0) as u64)).unwrap_or(usize::MAX);
                let end = if frames > WHOLE { at(until).min(frames) } else { frames };
                let heard = at(from).min(end)..end;
                return Some(Heard { silence, frames: heard });
            }
        }
        parts.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(parts: &[Part], ticks_per_second: u32) -> Timeline {
        Timeline::new(Some(Edits { parts: parts.to_vec(), ticks_per_second }), 0)
    }

    #[test]
    fn a_delay_is_cut_over_as_many_packets_as_it_takes() {
        let mut all = Timeline::new(None, 1500);
        let ranges: Vec<_> = (0..3).map(|_| all.place(0, 1000, 48_000).unwrap().frames).collect();
        assert_eq!(ranges, [1000..1000, 500..1000, 0..1000]);
    }

    #[test]
    fn parts_are_cut_at_the_start_and_kept_to_whole_packets_at_the_end() {
        let parts =
            [Part::Silence(500), Part::Track { from: 1500, until: 2500 }, Part::Track { from: 4000, until: 9000 }];
        let mut edited = edited(&parts, 1000);
        let place = |start| edited.place(start, 2000, 2000).map(|heard| (heard.silence, heard.frames));
        let placed: Vec<_> = [0, 1000, 2000, 3000, 4000, 9000].map(place).to_vec();
        let expected = [(1000, 2000..2000), (0, 1000..2000), (0, 0..2000), (0, 2000..2000), (0, 0..2000)];
        assert_eq!(placed[..5], expected.map(Some));
        assert_eq!(placed[5], None);
    }

    #[test]
    fn long_packets_of_plain_samples_are_cut_at_the_end_too() {
        let mut edited = edited(&[Part::Track { from: 10, until: 5010 }], 1000);
        assert_eq!(edited.place(0, 6000, 1000), Some(Heard { silence: 0, frames: 10..5010 }));
    }
}
