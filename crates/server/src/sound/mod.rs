//! Files of sound, written while the sound is being made.

mod background;
mod encoder;
mod flac;
#[cfg(feature = "mp3")]
mod mp3;
mod opus;

use qwen3_omni::{Audio, WavWriter};

pub(crate) use background::BackgroundEncoder;
pub(crate) use encoder::SoundEncoder;

#[cfg(not(feature = "mp3"))]
use crate::error::ApiError;
use crate::error::ApiResult;

/// A form in which speech is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Wav,
    /// 16 bits, little-endian.
    Pcm,
    Flac,
    Mp3,
    /// In Ogg.
    Opus,
}

impl Format {
    /// The name in requests and events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Wav => "wav",
            Self::Pcm => "pcm",
            Self::Flac => "flac",
            Self::Mp3 => "mp3",
            Self::Opus => "opus",
        }
    }

    /// The media type of a file.
    pub(crate) fn mime(self) -> &'static str {
        match self {
            Self::Wav => "audio/wav",
            Self::Pcm => "audio/pcm",
            Self::Flac => "audio/flac",
            Self::Mp3 => "audio/mpeg",
            Self::Opus => "audio/ogg",
        }
    }

    /// Starts a file of one channel.
    ///
    /// # Errors
    /// 400 for MP3 in a build without it; 500 if the encoder does not take this rate.
    pub(crate) fn encoder(self, sample_rate: u32, param: &str) -> ApiResult<Box<dyn SoundEncoder>> {
        match self {
            Self::Wav => Ok(Box::new(Wav { header: Some(wav_header(sample_rate)) })),
            Self::Pcm => Ok(Box::new(Wav { header: None })),
            Self::Flac => Ok(Box::new(flac::Flac::new(sample_rate)?)),
            Self::Opus => Ok(Box::new(opus::Opus::new(sample_rate)?)),
            Self::Mp3 => mp3(sample_rate, param),
        }
    }

    /// Whether a file must say how long it is, which is known only when it is complete. FLAC may leave that open, but widely used
    /// readers then fail.
    pub(crate) fn needs_length(self) -> bool {
        self == Self::Flac
    }

    /// Encodes a whole sound.
    ///
    /// # Errors
    /// Those of [`Format::encoder`].
    pub(crate) fn encode(self, audio: &Audio, param: &str) -> ApiResult<Vec<u8>> {
        let mut encoder = match self {
            Self::Wav => return Ok(audio.to_wav()),
            Self::Flac => Box::new(flac::Flac::new(audio.sample_rate)?.with_length(audio.samples.len())),
            _ => self.encoder(audio.sample_rate, param)?,
        };
        let mut bytes = encoder.push(&audio.to_i16())?;
        bytes.extend(encoder.finish()?);
        Ok(bytes)
    }
}

#[cfg(feature = "mp3")]
fn mp3(sample_rate: u32, _: &str) -> ApiResult<Box<dyn SoundEncoder>> {
    Ok(Box::new(mp3::Mp3::new(sample_rate)?))
}

#[cfg(not(feature = "mp3"))]
fn mp3(_: u32, param: &str) -> ApiResult<Box<dyn SoundEncoder>> {
    let message = "this server was built without mp3 (feature `mp3`), expected wav, flac, opus or pcm";
    Err(ApiError::unsupported(param, message))
}

/// Samples as they are, after a header if it is a file.
struct Wav {
    header: Option<Vec<u8>>,
}

fn wav_header(sample_rate: u32) -> Vec<u8> {
    WavWriter::new(Vec::new(), sample_rate).and_then(WavWriter::finish).expect("memory takes all bytes")
}

impl SoundEncoder for Wav {
    fn push(&mut self, samples: &[i16]) -> ApiResult<Vec<u8>> {
        let mut bytes = self.header.take().unwrap_or_default();
        bytes.extend(pcm(samples));
        Ok(bytes)
    }

    fn finish(&mut self) -> ApiResult<Vec<u8>> {
        self.push(&[])
    }
}

/// The bytes of samples, little-endian.
pub(crate) fn pcm(samples: &[i16]) -> impl Iterator<Item = u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use qwen3_omni::media::audio::{AudioInput, read_at};

    /// A second of a voice-like tone.
    fn tone() -> Audio {
        let samples = (0..24_000).map(|at| {
            let at = at as f32 / 24_000.0;
            0.3 * (at * 220.0 * std::f32::consts::TAU).sin() * (at * 3.0).sin()
        });
        Audio { samples: samples.collect(), sample_rate: 24_000 }
    }

    fn formats() -> Vec<Format> {
        [Format::Wav, Format::Flac, Format::Mp3, Format::Opus]
            .into_iter()
            .filter(|format| *format != Format::Mp3 || cfg!(feature = "mp3"))
            .collect()
    }

    #[test]
    fn every_file_holds_the_sound_it_was_made_of() {
        let tone = tone();
        for format in formats() {
            let file = format.encode(&tone, "f").unwrap();
            let found = read_at(&AudioInput::from(file), 24_000).unwrap();
            assert!(found.len().abs_diff(tone.samples.len()) < 2400, "{format:?}: {} samples", found.len());
            if matches!(format, Format::Wav | Format::Flac) {
                let error = found.iter().zip(&tone.samples).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(error < 1e-4 && found.len() == tone.samples.len(), "{format:?}: {error}");
            }
        }
    }

    #[test]
    fn pieces_of_any_size_make_the_same_file() {
        let samples = tone().to_i16();
        for format in formats().into_iter().chain([Format::Pcm]) {
            let file = |piece: usize| {
                let mut encoder = format.encoder(24_000, "f").unwrap();
                let pieces = samples.chunks(piece).flat_map(|piece| encoder.push(piece).unwrap());
                let mut bytes: Vec<u8> = pieces.collect();
                bytes.extend(encoder.finish().unwrap());
                bytes
            };
            let decoded = |bytes: Vec<u8>| match format {
                Format::Pcm => bytes.chunks(2).map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]]))).collect(),
                _ => read_at(&AudioInput::from(bytes), 24_000).unwrap(),
            };
            assert_eq!(decoded(file(samples.len())), decoded(file(1117)), "{format:?}");
        }
    }
}
