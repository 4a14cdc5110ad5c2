use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Indexing, Resampler as _};

use crate::Result;

/// Converts one channel from one sample rate to another, piece by piece: band-limited, without delay, and exactly
/// `ceil(samples * to / from)` samples in all.
pub struct Resampler {
    /// `None` if the rates are equal.
    fft: Option<Fft<f32>>,
    rates: [u64; 2],
    waiting: Vec<f32>,
    output: Vec<f32>,
    taken: u64,
    given: u64,
    delay: usize,
}

impl std::fmt::Debug for Resampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resampler").finish_non_exhaustive()
    }
}

/// Least number of samples per filter step, at the lower of both rates. The filter is as long as a step. From 24 or 48 to 16 kHz it keeps
/// what lies below 7 kHz, and holds sound back for at most one and a half steps, 30 ms.
const STEP: usize = 320;

/// Number of input samples per step that is whole at both rates. It is even: half of it is the filter's delay, which must be whole
/// samples to be removed.
fn step_samples(from: usize, to: usize) -> usize {
    let (mut a, mut b) = (from, to);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    let (smallest, lower) = (from / a, from.min(to) / a);
    smallest * STEP.div_ceil(lower).next_multiple_of(2)
}

impl Resampler {
    /// Makes a resampler between two rates, in samples per second.
    ///
    /// # Panics
    /// If a rate is 0.
    pub fn new(from: u32, to: u32) -> Self {
        let window = rubato::WindowFunction::BlackmanHarris2;
        let fft = (from != to).then(|| {
            let (from, to) = (from as usize, to as usize);
            Fft::new_custom(from, to, step_samples(from, to), 1, 1, window, FixedSync::Input)
                .expect("rates and sizes are positive")
        });
        let output = vec![0.0; fft.as_ref().map_or(0, |fft| fft.output_frames_max())];
        let delay = fft.as_ref().map_or(0, |fft| fft.output_delay());
        Self { fft, rates: [from, to].map(u64::from), waiting: Vec::new(), output, taken: 0, given: 0, delay }
    }

    /// Takes samples and passes on what is ready.
    ///
    /// # Errors
    /// The errors of `sink`.
    pub fn push(&mut self, samples: &[f32], sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        self.taken += samples.len() as u64;
        if self.fft.is_none() {
            return sink(samples);
        }
        self.waiting.extend_from_slice(samples);
        while self.waiting.len() >= self.needed() {
            self.step(usize::MAX, sink)?;
        }
        Ok(())
    }

    /// Passes on the rest.
    ///
    /// # Errors
    /// The errors of `sink`.
    pub fn finish(mut self, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let expected = (self.taken * self.rates[1]).div_ceil(self.rates[0]);
        while self.fft.is_some() && self.given < expected {
            let needed = self.needed();
            self.waiting.resize(needed.max(self.waiting.len()), 0.0);
            self.step((expected - self.given) as usize, sink)?;
        }
        Ok(())
    }

    fn needed(&self) -> usize {
        self.fft.as_ref().map_or(0, |fft| fft.input_frames_next())
    }

    /// One step of the filter; at most `most` samples are passed on.
    fn step(&mut self, most: usize, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let Some(fft) = &mut self.fft else { return Ok(()) };
        let frames = self.waiting.len();
        let input = InterleavedSlice::new(&self.waiting, 1, frames).expect("one channel");
        let room = self.output.len();
        let mut output = InterleavedSlice::new_mut(&mut self.output, 1, room).expect("one channel");
        let (used, made) =
            fft.process_into_buffer(&input, &mut output, None::<&Indexing>).expect("both buffers are large enough");
        self.waiting.drain(..used);
        // The filter's delay is silence in front of the sound.
        let skipped = self.delay.min(made);
        self.delay -= skipped;
        let piece = &self.output[skipped..made.min(skipped.saturating_add(most))];
        self.given += piece.len() as u64;
        sink(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(samples: &[f32], from: u32, piece: usize) -> Vec<f32> {
        let mut out = Vec::new();
        let mut keep = |piece: &[f32]| {
            out.extend_from_slice(piece);
            Ok(())
        };
        let mut resampler = Resampler::new(from, 16_000);
        samples.chunks(piece).for_each(|piece| resampler.push(piece, &mut keep).unwrap());
        resampler.finish(&mut keep).unwrap();
        out
    }

    fn tone(rate: u32, hertz: f64, samples: usize) -> Vec<f32> {
        (0..samples).map(|i| (std::f64::consts::TAU * hertz * i as f64 / f64::from(rate)).sin() as f32).collect()
    }

    #[test]
    fn a_tone_keeps_its_pitch_phase_and_length_and_what_cannot_be_held_vanishes() {
        for rate in [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000, 44_101] {
            let samples = rate as usize * 3 / 2 + 7;
            let out = convert(&tone(rate, 440.0, samples), rate, 1000);
            assert_eq!(out.len(), (samples * 16_000).div_ceil(rate as usize), "{rate}");
            let ideal = tone(16_000, 440.0, out.len());
            let middle = 1000..out.len() - 1000;
            let error = middle.clone().map(|i| (out[i] - ideal[i]).abs()).fold(0.0, f32::max);
            assert!(error < 2e-3, "{rate}: {error}");
            if rate >= 22_050 {
                let kept = convert(&tone(rate, 7_000.0, samples), rate, 1000);
                let ideal = tone(16_000, 7_000.0, out.len());
                let error = middle.clone().map(|i| (kept[i] - ideal[i]).abs()).fold(0.0, f32::max);
                assert!(error < 2e-3, "{rate}: {error} at 7 kHz");
            }
            if rate > 24_000 {
                let high = convert(&tone(rate, 11_000.0, samples), rate, 1000);
                let loudest = middle.map(|i| high[i].abs()).fold(0.0, f32::max);
                assert!(loudest < 2e-3, "{rate}: {loudest}");
            }
        }
    }

    #[test]
    fn no_more_than_a_step_and_a_half_is_held_back() {
        for rate in [8_000, 24_000, 32_000, 44_100, 48_000] {
            let mut resampler = Resampler::new(rate, 16_000);
            // One and a half steps, and what is pushed at a time.
            let most = 160 + STEP * 3 / 2 * 16_000 / rate.min(16_000) as usize;
            let mut made = 0;
            for pushed in 1..100 {
                let mut count = |piece: &[f32]| {
                    made += piece.len();
                    Ok(())
                };
                resampler.push(&vec![0.0; rate as usize / 100], &mut count).unwrap();
                let late = (pushed * 160_usize).saturating_sub(made);
                assert!(late <= most, "{rate}: {} ms late", late / 16);
            }
        }
    }

    #[test]
    fn pieces_of_any_size_give_the_same_and_the_own_rate_is_left_alone() {
        let samples = tone(44_100, 1000.0, 20_000);
        let whole = convert(&samples, 44_100, usize::MAX);
        for piece in [1, 77, 4096, 19_999] {
            assert_eq!(convert(&samples, 44_100, piece), whole);
        }
        assert_eq!(convert(&samples, 16_000, 999), samples);
    }
}
