use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};
use serde::{Deserialize, Serialize};

use crate::{MediaError, Result};

/// Samples per second the audio encoder was made for.
pub const SAMPLE_RATE: u32 = 16_000;
/// Samples from one frame to the next (10 ms).
pub const HOP: usize = 160;
/// Mel bins `M`.
pub const BINS: usize = 128;
const FFT: usize = 400;
const PAD: usize = FFT / 2;
const SPECTRUM: usize = FFT / 2 + 1;
/// Fewest samples: reflection at the edges needs one more than it reflects.
const FEWEST: usize = PAD + 1;

/// Log-mel frames of one item: what the audio encoder takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f32>", into = "Vec<f32>")]
pub struct Mel {
    values: Vec<f32>,
}

impl TryFrom<Vec<f32>> for Mel {
    type Error = MediaError;

    fn try_from(values: Vec<f32>) -> Result<Self> {
        Self::new(values)
    }
}

impl From<Mel> for Vec<f32> {
    fn from(mel: Mel) -> Self {
        mel.values
    }
}

impl Mel {
    /// Makes frames from values `[T, 128]`, frame after frame.
    ///
    /// # Errors
    /// [`MediaError::Unusable`] if there is no frame or the last one is not whole.
    pub fn new(values: Vec<f32>) -> Result<Self> {
        if values.is_empty() || !values.len().is_multiple_of(BINS) {
            let reason = format!("{} values are no whole frames of {BINS}", values.len());
            return Err(MediaError::unusable("log-mel frames", reason));
        }
        Ok(Self { values })
    }

    /// Frames of 10 ms.
    pub fn frames(&self) -> usize {
        self.values.len() / BINS
    }

    /// Bins per frame.
    pub fn bins(&self) -> usize {
        BINS
    }

    /// `[T, M]`, frame after frame.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// `[T, M]`, frame after frame, to be changed in place.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// `[T, M]`, frame after frame.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

/// Log-mel frames of sound that arrives in pieces: 16 kHz, one channel. Only frames are kept, not samples.
///
/// Centred frames of 400 samples, reflection at the edges, periodic Hann window, power, Slaney mel filters up to 8 kHz, then
/// `(max(log10(mel), largest - 8) + 4) / 4`. Computed in f64, so that what differs from the reference is the reference's own
/// rounding.
pub struct MelStream {
    fft: Arc<dyn RealToComplex<f64>>,
    window: Vec<f64>,
    filters: Vec<Filter>,
    /// Padded samples from the next frame's start on.
    waiting: Vec<f32>,
    samples: usize,
    frames: usize,
    values: Vec<f32>,
    scratch: Scratch,
}

impl std::fmt::Debug for MelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MelStream").finish_non_exhaustive()
    }
}

/// Buffers of one frame.
struct Scratch {
    input: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    fft: Vec<Complex<f64>>,
}

/// The non-zero bins of one mel filter.
struct Filter {
    first: usize,
    weights: Vec<f64>,
}

impl Default for MelStream {
    fn default() -> Self {
        Self::new()
    }
}

impl MelStream {
    /// An empty stream.
    pub fn new() -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(FFT);
        let scratch =
            Scratch { input: fft.make_input_vec(), spectrum: fft.make_output_vec(), fft: fft.make_scratch_vec() };
        let (window, filters) = (exact_window(), sparse_filters());
        Self { fft, window, filters, waiting: Vec::new(), samples: 0, frames: 0, values: Vec::new(), scratch }
    }

    /// Samples taken so far.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Appends samples.
    ///
    /// # Errors
    /// [`MediaError::Unusable`] if a sample is NaN or infinite.
    pub fn push(&mut self, samples: &[f32]) -> Result<()> {
        if let Some(at) = samples.iter().position(|sample| !sample.is_finite()) {
            return Err(MediaError::unusable("sound", format!("sample {} is not a finite number", self.samples + at)));
        }
        let started = self.samples >= FEWEST;
        self.samples += samples.len();
        self.waiting.extend_from_slice(samples);
        if !started && self.samples >= FEWEST {
            // The first frame's left half mirrors what follows the first sample.
            let mirrored: Vec<f32> = self.waiting[1..=PAD].iter().rev().copied().collect();
            self.waiting.splice(..0, mirrored);
        }
        if self.samples >= FEWEST {
            self.make_frames(usize::MAX);
        }
        Ok(())
    }

    /// Number of frames that further samples change only through the loudest value they are normalised by.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// A range of these frames, normalised by the loudest value so far: the final frames, unless the sound gets louder.
    ///
    /// # Panics
    /// If the range is empty, or beyond [`MelStream::frames`].
    pub fn so_far(&self, range: std::ops::Range<usize>) -> Mel {
        assert!(!range.is_empty() && range.end <= self.frames, "{range:?} of {} frames", self.frames);
        let loudest = self.values.iter().copied().fold(f32::MIN, f32::max);
        let values = self.values[range.start * BINS..range.end * BINS].iter();
        Mel { values: values.map(|value| normalised(*value, loudest)).collect() }
    }

    /// Finishes an item on its own: `samples / 160` frames, rounded down.
    ///
    /// # Errors
    /// [`MediaError::Unusable`] for 200 samples or fewer.
    pub fn finish(self) -> Result<Mel> {
        let samples = self.samples;
        self.finish_padded(samples)
    }

    /// Finishes an item on its own, with silence behind it if it has fewer than `frames` frames.
    ///
    /// # Errors
    /// Those of [`MelStream::finish`] for the sound itself.
    pub fn finish_at_least(mut self, frames: usize) -> Result<Mel> {
        if self.samples >= FEWEST {
            self.push(&vec![0.0; (frames * HOP).saturating_sub(self.samples)])?;
        }
        self.finish()
    }

    /// Finishes an item of a call whose longest item has `longest` samples: shorter ones are padded with silence before anything
    /// else, and have `samples / 160` frames, rounded up.
    ///
    /// # Errors
    /// [`MediaError::Unusable`] if the longest item has 200 samples or fewer.
    pub fn finish_padded(mut self, longest: usize) -> Result<Mel> {
        let samples = self.samples;
        if samples.max(longest) < FEWEST {
            let found = format!("{samples} samples at 16 kHz ({:.1} ms) are too short", samples as f64 / 16.0);
            return Err(MediaError::unusable("sound", format!("{found}, expected at least {FEWEST}")));
        }
        let valid = if longest > samples { samples.div_ceil(HOP) } else { samples / HOP };
        // Frames that lie wholly in silence are never the loudest, so more of it changes nothing.
        const SILENCE: usize = 2 * FFT;
        self.push(&vec![0.0; longest.saturating_sub(samples).min(SILENCE)])?;
        let end = self.waiting.len() - 1;
        let mirrored: Vec<f32> = self.waiting[end - PAD..end].iter().rev().copied().collect();
        self.waiting.extend(mirrored);
        self.make_frames(self.samples / HOP);
        let loudest = self.values.iter().copied().fold(f32::MIN, f32::max);
        self.values.truncate(valid * BINS);
        self.values.iter_mut().for_each(|value| *value = normalised(*value, loudest));
        Ok(Mel { values: self.values })
    }

    /// Makes the frames whose samples have arrived, up to `most` in all.
    fn make_frames(&mut self, most: usize) {
        let mut start = 0;
        while self.waiting.len() - start >= FFT && self.frames < most {
            self.make_frame(start);
            start += HOP;
        }
        self.waiting.drain(..start);
    }

    fn make_frame(&mut self, start: usize) {
        let Scratch { input, spectrum, fft } = &mut self.scratch;
        let samples = &self.waiting[start..start + FFT];
        for ((slot, sample), weight) in input.iter_mut().zip(samples).zip(&self.window) {
            *slot = f64::from(*sample) * weight;
        }
        self.fft.process_with_scratch(input, spectrum, fft).expect("the buffers were made for this transform");
        let power: Vec<f64> = spectrum.iter().map(|bin| bin.norm_sqr()).collect();
        self.values.extend(self.filters.iter().map(|filter| {
            let bins = &power[filter.first..filter.first + filter.weights.len()];
            let energy: f64 = bins.iter().zip(&filter.weights).map(|(power, weight)| power * weight).sum();
            energy.max(1e-10).log10() as f32
        }));
        self.frames += 1;
    }
}

/// Normalises a log10 value; the floor lies eight decades below the loudest.
fn normalised(value: f32, loudest: f32) -> f32 {
    (value.max(loudest - 8.0) + 4.0) / 4.0
}

fn exact_window() -> Vec<f64> {
    (0..FFT).map(|n| 0.5 - 0.5 * (std::f64::consts::TAU * n as f64 / FFT as f64).cos()).collect()
}

/// The periodic Hann window `[400]`.
pub fn window() -> Vec<f32> {
    exact_window().into_iter().map(|weight| weight as f32).collect()
}

/// Hertz per mel below the corner of Slaney's scale: linear up to 1 kHz, logarithmic above.
const LINEAR: f64 = 200.0 / 3.0;
const CORNER: f64 = 1000.0 / LINEAR;

fn hertz(mel: f64) -> f64 {
    if mel < CORNER { mel * LINEAR } else { 1000.0 * ((6.4f64.ln() / 27.0) * (mel - CORNER)).exp() }
}

/// The inverse of [`hertz`].
fn mel_of(hertz: f64) -> f64 {
    if hertz < 1000.0 { hertz / LINEAR } else { CORNER + (hertz / 1000.0).ln() / (6.4f64.ln() / 27.0) }
}

/// The mel of 8 kHz, the upper edge.
fn highest_mel() -> f64 {
    mel_of(8000.0)
}

/// Frequency in hertz at the centre of a bin, or between two centres.
pub fn mel_bin_centre(bin: f64) -> f64 {
    hertz(highest_mel() * (bin + 1.0) / (BINS + 1) as f64)
}

/// The bin whose centre is at a frequency in hertz, or a place between two: the inverse of [`mel_bin_centre`].
pub fn mel_bin_at(hertz: f64) -> f64 {
    mel_of(hertz) / highest_mel() * (BINS + 1) as f64 - 1.0
}

/// Triangular filters `[201, 128]`, bin after bin, each divided by half its width in Hz.
pub fn mel_filters() -> Vec<f32> {
    let edges: Vec<f64> = (0..BINS + 2).map(|i| hertz(highest_mel() * i as f64 / (BINS + 1) as f64)).collect();
    let mut filters = vec![0.0; SPECTRUM * BINS];
    for bin in 0..SPECTRUM {
        let frequency = 8000.0 * bin as f64 / (SPECTRUM - 1) as f64;
        for band in 0..BINS {
            let [low, centre, high] = [edges[band], edges[band + 1], edges[band + 2]];
            let weight = ((frequency - low) / (centre - low)).min((high - frequency) / (high - centre)).max(0.0);
            filters[bin * BINS + band] = (weight * 2.0 / (high - low)) as f32;
        }
    }
    filters
}

/// The filters without their zeros.
fn sparse_filters() -> Vec<Filter> {
    let dense = mel_filters();
    let band = |band: usize| {
        let weights: Vec<f64> = (0..SPECTRUM).map(|bin| f64::from(dense[bin * BINS + band])).collect();
        let first = weights.iter().position(|w| *w > 0.0).unwrap_or(0);
        let last = weights.iter().rposition(|w| *w > 0.0).map_or(first, |last| last + 1);
        Filter { first, weights: weights[first..last].to_vec() }
    };
    (0..BINS).map(band).collect()
}
