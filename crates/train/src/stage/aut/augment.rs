//! SpecAugment: bands and spans of a log-mel spectrogram are masked while it is learned from.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::random::Draws;
use crate::{Error, Result};

/// What is masked in a sound (SpecAugment). Without masks of either kind, sounds are learned from as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentSettings {
    /// Number of spans of time.
    pub time_masks: usize,
    /// Longest of these, as a part of the sound.
    pub longest_time: f64,
    /// Number of frequency bands.
    pub frequency_masks: usize,
    /// Widest of these, in mel bins.
    pub widest_frequency: usize,
}

impl Default for AugmentSettings {
    fn default() -> Self {
        Self { time_masks: 2, longest_time: 0.1, frequency_masks: 2, widest_frequency: 27 }
    }
}

impl AugmentSettings {
    pub(super) fn validate(&self) -> Result<()> {
        match (0.0..=1.0).contains(&self.longest_time) {
            true => Ok(()),
            false => {
                let reason = format!("{}, expected a part between 0 and 1", self.longest_time);
                Err(Error::Option { name: "augment.longest_time", reason })
            }
        }
    }

    /// Masks log-mel frames `[T, bins]`: what is masked becomes their least value.
    pub(super) fn apply(&self, mel: &mut [f32], bins: usize, draws: &mut Draws) {
        let (frames, least) = (mel.len() / bins, mel.iter().copied().fold(f32::INFINITY, f32::min));
        let longest = (self.longest_time * frames as f64) as usize;
        for _ in 0..self.time_masks {
            let masked = span(frames, longest, draws);
            mel[masked.start * bins..masked.end * bins].fill(least);
        }
        for _ in 0..self.frequency_masks {
            let masked = span(bins, self.widest_frequency, draws);
            mel.chunks_exact_mut(bins).for_each(|frame| frame[masked.clone()].fill(least));
        }
    }
}

/// A span of at most `longest` within `0..length`, any length and then any place equally likely.
fn span(length: usize, longest: usize, draws: &mut Draws) -> Range<usize> {
    let width = draws.below(longest.min(length) + 1);
    let start = draws.below(length - width + 1);
    start..start + width
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Purpose;

    const BINS: usize = 128;

    /// Frames whose values are all different and above −1, but for one.
    fn mel(frames: usize) -> Vec<f32> {
        let mut mel: Vec<f32> = (0..frames * BINS).map(|at| at as f32 * 1e-4).collect();
        mel[frames / 2 * BINS] = -1.0;
        mel
    }

    proptest! {
        #[test]
        fn masks_stay_within_their_bounds_and_all_else_as_it_was(frames in 2_usize..400, seed: u64) {
            let (before, mut after) = (mel(frames), mel(frames));
            AugmentSettings::default().apply(&mut after, BINS, &mut Draws::new(Purpose::Masks, &[seed]));
            let changed = |at: &usize| before[*at] != after[*at];
            prop_assert!((0..after.len()).filter(changed).all(|at| after[at] == -1.0));
            // A frame that is masked as a whole, or a bin that is masked in all frames; the one that was least may be either.
            let whole_frame = |frame: &usize| (0..BINS).all(|bin| after[frame * BINS + bin] == -1.0);
            let whole_bin = |bin: &usize| (0..frames).all(|frame| after[frame * BINS + bin] == -1.0);
            let (times, bands): (Vec<usize>, Vec<usize>) =
                ((0..frames).filter(whole_frame).collect(), (0..BINS).filter(whole_bin).collect());
            prop_assert!(times.len() <= 2 * (frames / 10), "{} of {} frames", times.len(), frames);
            prop_assert!(bands.len() <= 2 * 27, "{} bins", bands.len());
            let explained = |at: usize| times.contains(&(at / BINS)) || bands.contains(&(at % BINS));
            prop_assert!((0..after.len()).filter(changed).all(explained));
        }
    }

    #[test]
    fn masks_of_every_width_and_place_are_drawn_and_depend_on_the_keys_only() {
        let mask = |settings: &AugmentSettings, seed: u64| {
            let mut values = mel(200);
            settings.apply(&mut values, BINS, &mut Draws::new(Purpose::Masks, &[seed]));
            values
        };
        let settings = AugmentSettings::default();
        assert_eq!(mask(&settings, 7), mask(&settings, 7));
        assert_ne!(mask(&settings, 7), mask(&settings, 8));
        let off = AugmentSettings { time_masks: 0, frequency_masks: 0, ..settings.clone() };
        assert_eq!(mask(&off, 7), mel(200));
        let one = AugmentSettings { time_masks: 1, frequency_masks: 0, ..settings };
        let widths: std::collections::BTreeSet<usize> = (0..500)
            .map(|seed| mask(&one, seed).chunks(BINS).filter(|frame| frame.iter().all(|value| *value == -1.0)).count())
            .collect();
        assert!(widths.into_iter().eq(0..=20), "every width up to a tenth of 200 frames, and none beyond");
    }
}
