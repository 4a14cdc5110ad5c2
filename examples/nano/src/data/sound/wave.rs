//! Sound of one channel in memory and in WAV files.

use std::path::Path;

use crate::data::{Result, in_file};

/// The loudness of silence, against the peak. Voices made of recordings are never quite silent.
const SILENT: f32 = 0.003;

/// Sound of one channel.
#[derive(Debug, Clone)]
pub struct Wave {
    /// Samples per second.
    pub rate: u32,
    /// Samples, mostly from -1 to 1.
    pub samples: Vec<f32>,
}

impl Wave {
    /// Reads a WAV file of 16 bits and one channel.
    ///
    /// # Errors
    /// For a file that cannot be read or has another form.
    pub fn read(path: &Path) -> Result<Self> {
        let named = |error: hound::Error| format!("{}: {error}", path.display());
        let mut reader = hound::WavReader::open(path).map_err(named)?;
        let hound::WavSpec { channels, bits_per_sample, sample_rate, .. } = reader.spec();
        if channels != 1 || bits_per_sample != 16 {
            let found = format!("{channels} channels of {bits_per_sample} bits");
            return Err(format!("{}: {found}, expected one of 16 bits", path.display()).into());
        }
        let samples = reader.samples::<i16>().map(|sample| sample.map(|value| f32::from(value) / 32768.0));
        Ok(Self { rate: sample_rate, samples: samples.collect::<hound::Result<_>>().map_err(named)? })
    }

    /// Writes a WAV file of 16 bits.
    ///
    /// # Errors
    /// For a file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: self.rate,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec).map_err(in_file(path))?;
        for value in to_bits(&self.samples) {
            writer.write_sample(value).map_err(in_file(path))?;
        }
        writer.finalize().map_err(in_file(path))
    }

    /// The loudest sample.
    pub fn peak(&self) -> f32 {
        self.samples.iter().fold(0.0, |peak, sample| sample.abs().max(peak))
    }

    /// The sound without the silence at its ends, but for some seconds that are kept.
    #[must_use]
    pub fn trimmed(mut self, kept: f32) -> Self {
        let (least, stretch) = (self.peak() * SILENT, self.rate as usize / 100);
        // Stretches of 10 ms: a soft "f" is louder than a click of the same height.
        let loud: Vec<bool> = self.samples.chunks(stretch).map(|samples| rms(samples) > least).collect();
        let first = loud.iter().position(|loud| *loud).unwrap_or(0) * stretch;
        let end = loud.iter().rposition(|loud| *loud).map_or(0, |last| last + 1) * stretch;
        let kept = (kept * self.rate as f32) as usize;
        self.samples.truncate(end + kept);
        self.samples.drain(..first.saturating_sub(kept));
        self
    }

    /// Multiplies every sample.
    #[must_use]
    pub fn times(mut self, factor: f32) -> Self {
        self.samples.iter_mut().for_each(|sample| *sample *= factor);
        self
    }
}

/// Samples in 16 bits.
pub fn to_bits(samples: &[f32]) -> impl Iterator<Item = i16> {
    samples.iter().map(|sample| (sample.clamp(-1.0, 1.0) * 32767.0).round() as i16)
}

/// Root of the mean square.
pub fn rms(samples: &[f32]) -> f32 {
    let squares: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    (squares / samples.len().max(1) as f64).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_cut_off_but_for_what_is_kept() {
        let sound = (0..4000).map(|i| (i as f32 * 0.3).sin() * 0.3);
        let quiet = |count| std::iter::repeat_n(0.0001, count);
        let samples = quiet(1600).chain(sound).chain(quiet(3000)).collect();
        let trimmed = Wave { rate: 16_000, samples }.trimmed(0.01);
        assert_eq!(trimmed.samples.len(), 160 + 4000 + 160);
    }
}
