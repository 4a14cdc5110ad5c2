//! Sound: files or samples → 16 kHz, one channel → log-mel frames.
//!
//! ```
//! use qwen3_omni_media::audio::{AudioInput, log_mel};
//!
//! let second = AudioInput::samples(vec![0.1; 48_000], 48_000, 1);
//! let mel = &log_mel(&[second])?[0];
//! assert_eq!((mel.frames(), mel.bins()), (100, 128));
//! # Ok::<(), qwen3_omni_media::MediaError>(())
//! ```

#[cfg(feature = "audio")]
mod aac;
#[cfg(feature = "audio")]
mod contents;
mod decode;
mod input;
mod mel;
#[cfg(feature = "audio")]
mod opus;
mod resample;
#[cfg(feature = "audio")]
mod timeline;
#[cfg(feature = "audio")]
mod track;

pub use input::{AudioInput, Mono, read, read_at};
pub use mel::{BINS, HOP, Mel, MelStream, SAMPLE_RATE, mel_bin_at, mel_bin_centre, mel_filters, window};
pub use resample::Resampler;

use std::sync::Arc;

use crate::{MediaError, Result};

/// One of several inputs cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("item {}: {source}", index + 1)]
#[non_exhaustive]
pub struct ItemError {
    /// Its index.
    pub index: usize,
    /// What is wrong with it.
    pub source: MediaError,
}

impl From<ItemError> for MediaError {
    fn from(error: ItemError) -> Self {
        error.source
    }
}

/// Log-mel frames of several items that go to the encoder in one call.
///
/// As in the reference for one prompt, all items are first padded with silence to the longest one, which gives the shorter ones one
/// more frame if they end inside a hop.
///
/// # Errors
/// [`ItemError`] with the index of the item that cannot be used.
pub fn log_mel(items: &[AudioInput]) -> Result<Vec<Mel>, ItemError> {
    log_mel_up_to(items, usize::MAX)
}

/// Computes [`log_mel`], refusing an item of more than `most` frames as soon as it has them.
///
/// # Errors
/// The errors of [`log_mel`].
pub fn log_mel_up_to(items: &[AudioInput], most: usize) -> Result<Vec<Mel>, ItemError> {
    let mut streams = Vec::new();
    for (index, item) in items.iter().enumerate() {
        if let AudioInput::Frames(mel) = item {
            streams.push(Err(mel));
            continue;
        }
        let mut stream = MelStream::new();
        let fed = item.feed(&mut |piece| {
            stream.push(piece).map_err(|error| error.named(item.origin()))?;
            match stream.samples() / HOP > most {
                true => Err(MediaError::unusable(item.origin(), format!("more than {} s of sound", most / 100))),
                false => Ok(()),
            }
        });
        fed.map_err(|source| ItemError { index, source })?;
        streams.push(Ok(stream));
    }
    let longest = streams.iter().flatten().map(MelStream::samples).max().unwrap_or(0);
    let finish = |(index, stream): (usize, Result<MelStream, &Arc<Mel>>)| match stream {
        Ok(stream) => stream
            .finish_padded(longest)
            .map_err(|error| ItemError { index, source: error.named(items[index].origin()) }),
        Err(made) => Ok(Mel::clone(made)),
    };
    streams.into_iter().enumerate().map(finish).collect()
}

/// Log-mel frames of one item on its own, with silence behind it if it has fewer than `frames` frames.
///
/// # Errors
/// [`MediaError`] naming the item, if it cannot be used.
pub fn log_mel_at_least(item: &AudioInput, frames: usize) -> Result<Mel> {
    if let AudioInput::Frames(mel) = item {
        return Ok(Mel::clone(mel));
    }
    let mut stream = MelStream::new();
    item.feed(&mut |piece| stream.push(piece).map_err(|error| error.named(item.origin())))?;
    stream.finish_at_least(frames).map_err(|error| error.named(item.origin()))
}
