use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

use super::decode::decode;
use super::mel::{Mel, SAMPLE_RATE};
use super::resample::Resampler;
use crate::{MediaError, Result, Source};

/// Sound as an application has it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AudioInput {
    /// A file or its bytes, told by the contents. What is not decoded here goes to an installed `ffmpeg`.
    Encoded(Source),
    /// The sound track of a video file, read as [`AudioInput::Encoded`] is.
    SoundTrack(Source),
    /// Decoded samples, the channels interleaved.
    Samples {
        /// Between −1 and 1.
        samples: Arc<[f32]>,
        /// Samples per second and channel.
        sample_rate: u32,
        /// Channels.
        channels: usize,
    },
    /// Log-mel frames made earlier by a [`super::MelStream`].
    Frames(Arc<Mel>),
}

impl AudioInput {
    /// Decoded samples, the channels interleaved.
    pub fn samples(samples: impl Into<Arc<[f32]>>, sample_rate: u32, channels: usize) -> Self {
        Self::Samples { samples: samples.into(), sample_rate, channels }
    }

    /// Name for messages: the file's, or what the input is instead.
    pub fn origin(&self) -> String {
        match self {
            Self::Encoded(source) => source.origin(),
            Self::SoundTrack(source) => source.origin(),
            Self::Samples { samples, .. } => format!("{} decoded samples", samples.len()),
            Self::Frames(mel) => format!("{} log-mel frames", mel.frames()),
        }
    }

    /// Passes the sound to `sink` piece by piece, at 16 kHz and one channel; the whole is never held.
    ///
    /// # Errors
    /// [`MediaError`] if it cannot be read or decoded, is empty, or has a NaN or infinite sample; errors of `sink` are passed on.
    pub fn feed(&self, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        self.feed_at(SAMPLE_RATE, sink)
    }

    /// Passes the sound to `sink` as [`AudioInput::feed`] does, at another number of samples per second.
    ///
    /// # Errors
    /// The errors of [`AudioInput::feed`], and [`MediaError`] for an implausible rate.
    pub fn feed_at(&self, rate: u32, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        if !RATES.contains(&rate) {
            let reason = format!("asked for at {rate} samples per second, expected 1000 to 768000");
            return Err(MediaError::unusable(self.origin(), reason));
        }
        match self {
            Self::Encoded(source) => encoded(source, rate, sink),
            Self::SoundTrack(source) => encoded(source, rate, sink),
            Self::Frames(_) => Err(MediaError::unusable(self.origin(), "they hold no samples")),
            Self::Samples { samples, sample_rate, channels } => {
                let mut mono = Mono::at(self.origin(), rate);
                let whole = samples.len().checked_rem(*channels) == Some(0);
                if !whole {
                    let reason = format!("they do not divide into {channels} channels");
                    return Err(MediaError::unusable(self.origin(), reason));
                }
                for piece in samples.chunks(PIECE.saturating_mul(*channels)) {
                    mono.push(piece, *sample_rate, *channels, sink)?;
                }
                mono.finish(sink)
            }
        }
    }
}

fn encoded(source: &Source, rate: u32, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
    let fresh = || Mono::at(source.origin(), rate);
    let mut mono = fresh();
    decode(source, &mut |piece, rate, channels| {
        // Two files that were joined may differ in this.
        if mono.differs(rate, channels) {
            std::mem::replace(&mut mono, fresh()).finish(sink)?;
        }
        mono.push(piece, rate, channels, sink)
    })?;
    mono.finish(sink)
}

/// Frames that are converted at a time.
const PIECE: usize = 1 << 14;

/// Reads the whole sound at 16 kHz, one channel.
///
/// # Errors
/// The errors of [`AudioInput::feed`].
pub fn read(input: &AudioInput) -> Result<Vec<f32>> {
    read_at(input, SAMPLE_RATE)
}

/// Reads the whole sound at `rate` samples per second, one channel.
///
/// # Errors
/// The errors of [`AudioInput::feed`].
pub fn read_at(input: &AudioInput, rate: u32) -> Result<Vec<f32>> {
    let mut samples = Vec::new();
    input.feed_at(rate, &mut |piece| {
        samples.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(samples)
}

/// Accepted sample rates; any other is damage or a mistake.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Largest value of a sample. Full scale is 1, but whole numbers of 32 bits that were written as floats are let through.
const LOUDEST: f32 = 1e12;

/// Converts interleaved channels of any rate to one channel at 16 kHz or another rate, piece by piece.
#[derive(Debug)]
pub struct Mono {
    origin: String,
    rate: u32,
    resampler: Option<Resampler>,
    format: (u32, usize),
    frames: usize,
}

impl Mono {
    /// Makes a converter; `origin` names the sound in errors.
    pub fn new(origin: String) -> Self {
        Self::at(origin, SAMPLE_RATE)
    }

    /// Makes a converter to `rate` samples per second.
    ///
    /// # Panics
    /// If `rate` is 0.
    pub fn at(origin: String, rate: u32) -> Self {
        assert!(rate > 0, "a rate of 0");
        Self { origin, rate, resampler: None, format: (0, 0), frames: 0 }
    }

    /// Takes a piece of interleaved samples and passes on what is ready.
    ///
    /// # Errors
    /// [`MediaError`] if a sample is NaN or infinite, or rate or channels are implausible or change; errors of `sink` are passed on.
    pub fn push(
        &mut self,
        piece: &[f32],
        rate: u32,
        channels: usize,
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        self.check(piece, rate, channels)?;
        let mixed: Vec<f32> = match channels {
            1 => piece.to_vec(),
            _ => piece.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32).collect(),
        };
        self.frames += mixed.len();
        let resampler = self.resampler.get_or_insert_with(|| Resampler::new(rate, self.rate));
        resampler.push(&mixed, sink)
    }

    /// Whether there was sound before, of another rate or number of channels.
    fn differs(&self, rate: u32, channels: usize) -> bool {
        self.frames > 0 && self.format != (rate, channels)
    }

    fn check(&mut self, piece: &[f32], rate: u32, channels: usize) -> Result<()> {
        let refuse = |reason: String| Err(MediaError::unusable(&self.origin, reason));
        if !RATES.contains(&rate) {
            return refuse(format!("{rate} samples per second, expected {} to {}", RATES.start(), RATES.end()));
        }
        if self.format != (0, 0) && self.format != (rate, channels) {
            return refuse("sample rate or channels change in the middle".to_owned());
        }
        self.format = (rate, channels);
        // Not finite, or so loud that the filters' sums would not be.
        match piece.iter().position(|sample| !(-LOUDEST..=LOUDEST).contains(sample)) {
            Some(at) if piece[at].is_finite() => {
                refuse(format!("sample {} is {:e}, expected −1 to 1", self.frames + at / channels, piece[at]))
            }
            Some(at) => refuse(format!("sample {} is not a finite number", self.frames + at / channels)),
            None => Ok(()),
        }
    }

    /// Passes on the rest.
    ///
    /// # Errors
    /// [`MediaError`] if there was no sample at all; errors of `sink` are passed on.
    pub fn finish(self, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        match self.resampler.filter(|_| self.frames > 0) {
            Some(resampler) => resampler.finish(sink),
            None => Err(MediaError::unusable(self.origin, "there are no samples: the sound has no length")),
        }
    }
}

impl<S: Into<Source>> From<S> for AudioInput {
    fn from(source: S) -> Self {
        Self::Encoded(source.into())
    }
}

impl fmt::Debug for AudioInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_is_read_at_any_rate() {
        let tone =
            |rate: usize| (0..rate).map(move |at| (440.0 * std::f32::consts::TAU * at as f32 / rate as f32).sin());
        let input = AudioInput::samples(tone(48_000).collect::<Vec<f32>>(), 48_000, 1);
        for rate in [24_000, 16_000, 48_000] {
            let found = read_at(&input, rate as u32).unwrap();
            assert_eq!(found.len(), rate);
            // The filters see silence before the beginning and behind the end.
            let middle = found.iter().zip(tone(rate)).skip(rate / 10).take(rate / 2);
            assert!(middle.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-2, "{rate}");
        }
        assert_eq!(read(&input).unwrap(), read_at(&input, SAMPLE_RATE).unwrap());
        for rate in [0, u32::MAX] {
            let error = read_at(&input, rate).unwrap_err().to_string();
            assert!(error.contains(&format!("{rate} samples per second")), "{error}");
        }
    }
}
