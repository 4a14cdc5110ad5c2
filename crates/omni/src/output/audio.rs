//! Sound of an answer, and the forms it can take.

use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

use media::audio::Resampler;
use omni_core::{Error, Result};

use super::wav::{WavFile, header, to_i16};

/// Sound: one channel, between −1 and 1.
///
/// ```
/// let tone: Vec<f32> = (0..12_000).map(|at| (at as f32 * 0.1).sin()).collect();
/// let audio = qwen3_omni::Audio { samples: tone, sample_rate: 24_000 };
/// let call = audio.resampled(8_000)?;
/// assert_eq!((call.duration().as_millis(), call.to_wav().len()), (500, 44 + 2 * 4000));
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Audio {
    /// Samples.
    pub samples: Vec<f32>,
    /// Samples per second (24,000).
    pub sample_rate: u32,
}

impl Audio {
    /// Duration of the samples.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.samples.len() as f64 / f64::from(self.sample_rate))
    }

    /// The samples as 16-bit numbers; values outside −1 to 1 are clamped.
    pub fn to_i16(&self) -> Vec<i16> {
        self.samples.iter().map(|sample| to_i16(*sample)).collect()
    }

    /// The bytes of a 16-bit WAV file.
    pub fn to_wav(&self) -> Vec<u8> {
        let mut bytes = header(self.sample_rate, Some(self.samples.len())).to_vec();
        bytes.extend(self.to_i16().into_iter().flat_map(i16::to_le_bytes));
        bytes
    }

    /// The same sound at another sample rate, band-limited and without delay.
    ///
    /// # Errors
    /// [`Error::Request`] for a rate below 1,000 or above 768,000.
    pub fn resampled(&self, sample_rate: u32) -> Result<Self> {
        if !(1_000..=768_000).contains(&sample_rate) {
            return Err(Error::Request(format!("{sample_rate} samples per second, expected 1000 to 768000")));
        }
        let mut samples = Vec::new();
        let mut keep = |piece: &[f32]| {
            samples.extend_from_slice(piece);
            Ok(())
        };
        let mut resampler = Resampler::new(self.sample_rate, sample_rate);
        let done = resampler.push(&self.samples, &mut keep).and_then(|()| resampler.finish(&mut keep));
        done.map_err(|error| error.in_part("the answer's sound"))?;
        Ok(Self { samples, sample_rate })
    }

    /// Writes a 16-bit WAV file; an existing file is replaced only when the new one is complete.
    ///
    /// # Errors
    /// [`omni_core::Error::Io`] naming the path; nothing half-written is left.
    pub fn save_wav(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut file = WavFile::create(path.as_ref(), self.sample_rate)?;
        file.write(&self.samples)?;
        file.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(sample_rate: u32) -> Audio {
        let step = std::f32::consts::TAU * 440.0 / sample_rate as f32;
        Audio { samples: (0..sample_rate).map(|at| (at as f32 * step).sin() * 0.5).collect(), sample_rate }
    }

    #[test]
    fn a_tone_stays_the_same_tone_at_another_rate() {
        for rate in [8_000, 16_000, 48_000] {
            let (found, expected) = (tone(24_000).resampled(rate).unwrap(), tone(rate));
            assert_eq!((found.sample_rate, found.samples.len()), (rate, expected.samples.len()));
            // The edges ring.
            let middle = rate as usize / 10..rate as usize * 9 / 10;
            let pairs = found.samples[middle.clone()].iter().zip(&expected.samples[middle]);
            let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error < 1e-3, "{rate}: {error}");
        }
        assert!(tone(24_000).resampled(0).unwrap_err().to_string().contains("expected 1000 to 768000"));
    }
}
