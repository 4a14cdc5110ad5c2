use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

use super::decode::decode;
use super::{Mel, Resampler, SAMPLE_RATE};
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
        match self {
            Self::Encoded(source) => encoded(source, sink),
            Self::SoundTrack(source) => encoded(source, sink),
            Self::Frames(_) => Err(MediaError::unusable(self.origin(), "they hold no samples")),
            Self::Samples { samples, sample_rate, channels } => {
                let mut mono = Mono::new(self.origin());
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

fn encoded(source: &Source, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
    let mut mono = Mono::new(source.origin());
    decode(source, &mut |piece, rate, channels| {
        // Two files that were joined may differ in this.
        if mono.differs(rate, channels) {
            std::mem::replace(&mut mono, Mono::new(source.origin())).finish(sink)?;
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
    let mut samples = Vec::new();
    input.feed(&mut |piece| {
        samples.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(samples)
}

/// Accepted sample rates; any other is damage or a mistake.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Largest value of a sample. Full scale is 1, but whole numbers of 32 bits that were written as floats are let through.
const LOUDEST: f32 = 1e12;

/// Converts interleaved channels of any rate to one channel at 16 kHz, piece by piece.
#[derive(Debug)]
pub struct Mono {
    origin: String,
    resampler: Option<Resampler>,
    format: (u32, usize),
    frames: usize,
}

impl Mono {
    /// Makes a converter; `origin` names the sound in errors.
    pub fn new(origin: String) -> Self {
        Self { origin, resampler: None, format: (0, 0), frames: 0 }
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
        let resampler = self.resampler.get_or_insert_with(|| Resampler::new(rate, SAMPLE_RATE));
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
        // Not a number, or so loud that the filters' sums would not be numbers.
        match piece.iter().position(|sample| !(-LOUDEST..=LOUDEST).contains(sample)) {
            Some(at) if piece[at].is_finite() => {
                refuse(format!("sample {} is {:e}, expected −1 to 1", self.frames + at / channels, piece[at]))
            }
            Some(at) => refuse(format!("sample {} is no number", self.frames + at / channels)),
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
