//! Sounds are changed while they are learned from: SpecAugment masks bands and spans of a log-mel spectrogram, and level, tilt, noise and
//! the speaker's vocal tract vary.

use std::ops::Range;

use qwen3_omni::ReadMedia;
use qwen3_omni::media::audio::{mel_bin_at, mel_bin_centre};
use serde::{Deserialize, Serialize};

use crate::data::Batch;
use crate::random::{Draws, Purpose};
use crate::{Error, Result};

/// How log-mel frames are changed while they are learned from. One unit of their values is 40 dB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentSettings {
    /// Number of spans of time that are masked (SpecAugment).
    pub time_masks: usize,
    /// Longest of these, as a part of the sound.
    pub longest_time: f64,
    /// Number of frequency bands that are masked.
    pub frequency_masks: usize,
    /// Widest of these, in mel bins.
    pub widest_frequency: usize,
    /// Most that is added to all values, or taken from them: another level.
    pub gain: f64,
    /// Most that is added at the lowest bin and taken at the highest, or the reverse: another microphone.
    pub tilt: f64,
    /// Largest standard deviation of the normal noise that is added to each value.
    pub noise: f64,
    /// Most that all frequencies are raised or lowered by, as a part of them: a shorter or longer vocal tract (VTLP, Jaitly and Hinton
    /// 2013), that is, another speaker.
    pub warp: f64,
}

impl Default for AugmentSettings {
    /// Sounds are learned from as they are.
    fn default() -> Self {
        Self {
            time_masks: 0,
            longest_time: 0.1,
            frequency_masks: 0,
            widest_frequency: 27,
            gain: 0.0,
            tilt: 0.0,
            noise: 0.0,
            warp: 0.0,
        }
    }
}

impl AugmentSettings {
    /// Two masks of either kind, as in SpecAugment's policy for LibriSpeech, and nothing else.
    pub fn spec_augment() -> Self {
        Self { time_masks: 2, frequency_masks: 2, ..Self::default() }
    }

    /// The numbers that decide how an item of a batch is changed.
    pub(super) fn draws(seed: u64, batch: u64, item: usize) -> Draws {
        Draws::new(Purpose::Masks, &[seed, batch, item as u64])
    }

    /// Checks that the settings make sense.
    ///
    /// # Errors
    /// [`Error::Option`] naming one that does not.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.longest_time) {
            let reason = format!("{}, expected a part between 0 and 1", self.longest_time);
            return Err(Error::Option { name: "augment.longest_time", reason });
        }
        if !(0.0..1.0).contains(&self.warp) {
            let reason = format!("{}, expected a part of at least 0 and less than 1", self.warp);
            return Err(Error::Option { name: "augment.warp", reason });
        }
        let changes = [("augment.gain", self.gain), ("augment.tilt", self.tilt), ("augment.noise", self.noise)];
        match changes.into_iter().find(|(_, change)| !(*change >= 0.0 && change.is_finite())) {
            Some((name, change)) => Err(Error::Option { name, reason: format!("{change}, expected 0 or more") }),
            None => Ok(()),
        }
    }

    /// Changes log-mel frames `[T, bins]`; what is masked becomes their least value.
    pub(super) fn apply(&self, mel: &mut [f32], bins: usize, draws: &mut Draws) {
        self.warp(mel, bins, draws);
        self.vary(mel, bins, draws);
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

    /// Raises or lowers all frequencies by the same factor. What is above the highest is repeated from it.
    fn warp(&self, mel: &mut [f32], bins: usize, draws: &mut Draws) {
        if self.warp == 0.0 {
            return;
        }
        let factor = 1.0 + self.warp * draws.symmetric();
        let source = |bin: usize| mel_bin_at(mel_bin_centre(bin as f64) / factor).clamp(0.0, (bins - 1) as f64);
        let sources: Vec<f64> = (0..bins).map(source).collect();
        for frame in mel.chunks_exact_mut(bins) {
            let before = frame.to_vec();
            for (value, source) in frame.iter_mut().zip(&sources) {
                let (low, part) = (*source as usize, source.fract() as f32);
                let high = before[(low + 1).min(bins - 1)];
                *value = before[low] + part * (high - before[low]);
            }
        }
    }

    /// Varies level, tilt and noise.
    fn vary(&self, mel: &mut [f32], bins: usize, draws: &mut Draws) {
        if [self.gain, self.tilt, self.noise] == [0.0; 3] {
            return;
        }
        let [gain, tilt, noise] = [self.gain, self.tilt, self.noise].map(|largest| largest * draws.symmetric());
        let last = (bins - 1).max(1) as f64;
        for frame in mel.chunks_exact_mut(bins) {
            for (bin, value) in frame.iter_mut().enumerate() {
                let slope = 2.0 * bin as f64 / last - 1.0;
                *value += (gain + tilt * slope + noise * draws.normal()) as f32;
            }
        }
    }
}

/// Changes the sounds of batches of conversations. What is drawn depends on the seed, the batch's number and the item only.
#[derive(Debug)]
pub struct Augmenter {
    settings: AugmentSettings,
    seed: u64,
    /// The number of the last batch.
    number: u64,
}

impl Augmenter {
    /// Makes one whose first batch is the one after the first `taken`.
    pub fn new(settings: AugmentSettings, seed: u64, taken: u64) -> Self {
        Self { settings, seed, number: taken }
    }

    /// Changes the sounds of the next batch, those of videos included.
    pub fn augment(&mut self, batch: &mut Batch) {
        self.number += 1;
        if self.settings == AugmentSettings::default() {
            return;
        }
        for (index, item) in batch.items.iter_mut().enumerate() {
            let mut draws = AugmentSettings::draws(self.seed, self.number, index);
            for media in &mut item.sample.media {
                if let ReadMedia::Sound(mel) = media {
                    let bins = mel.bins();
                    self.settings.apply(mel.values_mut(), bins, &mut draws);
                }
            }
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
            AugmentSettings::spec_augment().apply(&mut after, BINS, &mut Draws::new(Purpose::Masks, &[seed]));
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
        let settings = AugmentSettings::spec_augment();
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

    #[test]
    fn a_warp_moves_every_frequency_by_one_factor() {
        let settings = AugmentSettings { warp: 0.15, ..AugmentSettings::default() };
        let tones = [20, 60, 100]; // Below 1 kHz, where bins are equally wide, and above.
        let mut factors = Vec::new();
        for seed in 0..100 {
            let mut values = vec![0.0; 3 * BINS];
            tones.iter().enumerate().for_each(|(frame, bin)| values[frame * BINS + bin] = 1.0);
            settings.apply(&mut values, BINS, &mut Draws::new(Purpose::Masks, &[seed]));
            let raised = tones.iter().zip(values.chunks_exact(BINS)).map(|(bin, frame)| {
                let total: f32 = frame.iter().sum();
                let place = frame.iter().enumerate().map(|(at, value)| at as f64 * f64::from(value / total)).sum();
                mel_bin_centre(place) / mel_bin_centre(*bin as f64)
            });
            let raised: Vec<f64> = raised.collect();
            // A tone is a whole bin wide: 7 % at the first of these frequencies, 3 % at the others.
            assert!(raised.iter().all(|factor| (factor - raised[2]).abs() < 0.03), "{raised:?}");
            factors.push(raised[2]);
        }
        assert!(factors.iter().all(|factor| (0.83..1.17).contains(factor)), "{factors:?}");
        assert!(
            factors.iter().any(|factor| *factor < 0.9) && factors.iter().any(|factor| *factor > 1.1),
            "{factors:?}"
        );
    }

    #[test]
    fn level_colour_and_noise_stay_within_their_bounds() {
        let changed = |settings: &AugmentSettings, seed: u64| {
            let (before, mut after) = (mel(60), mel(60));
            settings.apply(&mut after, BINS, &mut Draws::new(Purpose::Masks, &[seed]));
            before.iter().zip(&after).map(|(before, after)| f64::from(after - before)).collect::<Vec<f64>>()
        };
        let gain = AugmentSettings { gain: 0.15, ..AugmentSettings::default() };
        let gains: Vec<f64> = (0..200).map(|seed| changed(&gain, seed)[0]).collect();
        assert!(gains.iter().all(|gain| gain.abs() <= 0.15) && gains.iter().any(|gain| *gain > 0.1), "{gains:?}");
        assert!(gains.iter().any(|gain| *gain < -0.1), "{gains:?}");
        let same = changed(&gain, 3);
        assert!(same.iter().all(|change| (change - same[0]).abs() < 1e-6));
        let tilted = changed(&AugmentSettings { tilt: 0.2, ..AugmentSettings::default() }, 3);
        assert!(
            (tilted[0] + tilted[BINS - 1]).abs() < 1e-6 && (tilted[0] - tilted[BINS]).abs() < 1e-6 && tilted[0] != 0.0
        );
        let noisy = changed(&AugmentSettings { noise: 0.06, ..AugmentSettings::default() }, 3);
        let [mean, square] =
            [1, 2].map(|power| noisy.iter().map(|change| change.powi(power)).sum::<f64>() / noisy.len() as f64);
        assert!(mean.abs() < 0.003 && square.sqrt() < 0.061 && square > 0.0, "{mean}, {square}");
    }
}
