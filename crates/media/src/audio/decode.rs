//! Any file → interleaved samples: decoded here, or else by an installed ffmpeg.

#[cfg(feature = "audio")]
use super::track::decode_here;
use crate::ffmpeg::{self, Interleaved};
use crate::reason::Reason;
use crate::{MediaError, Result, Source};

/// Message for contents without sound.
const NO_SOUND: &str = "there is no sound track";

/// Decodes the first sound track, packet by packet. The format is told by the contents, never by the file's name.
///
/// # Errors
/// [`MediaError::Unsupported`] for contents that neither this nor an installed ffmpeg decodes; [`MediaError::Damaged`] if a packet
/// cannot be decoded or the file ends before the length it states: a part of the sound is never silently left out.
pub(super) fn decode(source: &Source, sink: &mut Interleaved) -> Result<()> {
    let mut given = Given::default();
    let here = decode_here(source, &mut |samples, rate, channels| {
        given.add(samples.len() / channels.max(1), rate);
        sink(samples, rate, channels)
    });
    match here {
        Ok(true) => Ok(()),
        Ok(false) => Err(MediaError::unusable(source.origin(), NO_SOUND)),
        Err(error @ MediaError::Unsupported { .. }) => decode_by_ffmpeg(source, error.into_reason(), &given, sink),
        Err(error) => Err(error),
    }
}

/// How much has been handed on.
#[derive(Default)]
struct Given {
    frames: u64,
    rate: u32,
}

impl Given {
    fn add(&mut self, frames: usize, rate: u32) {
        self.frames += frames as u64;
        self.rate = rate;
    }

    /// The same length in frames of another rate.
    fn frames_at(&self, rate: u32) -> u64 {
        self.frames * u64::from(rate) / u64::from(self.rate.max(1))
    }
}

/// Decodes with ffmpeg what is not decoded here, for the reason `why`, from the place on that was reached here.
fn decode_by_ffmpeg(source: &Source, why: Reason, given: &Given, sink: &mut Interleaved) -> Result<()> {
    let (mut begun, mut passed) = (given.frames > 0, 0);
    let found = ffmpeg::sound(source, why.text(), &mut |samples, rate, channels| {
        begun = true;
        let frames = samples.len() / channels;
        let known = given.frames_at(rate).saturating_sub(passed).min(frames as u64) as usize;
        passed += frames as u64;
        if known == frames { Ok(()) } else { sink(&samples[known * channels..], rate, channels) }
    });
    match found {
        Ok(true) => Ok(()),
        Ok(false) => Err(MediaError::unusable(source.origin(), why.reworded(|why| format!("{NO_SOUND}; {why}")))),
        Err(MediaError::Damaged { reason, .. }) if !begun => {
            Err(MediaError::unsupported(source.origin(), why.reworded(|why| format!("{why}; {reason}"))))
        }
        Err(error) => Err(error),
    }
}

#[cfg(not(feature = "audio"))]
fn decode_here(source: &Source, _: &mut Interleaved) -> Result<bool> {
    source.check()?;
    let reason = "this program was built without the feature `audio`, which decodes sound files";
    Err(MediaError::unsupported(source.origin(), reason))
}
