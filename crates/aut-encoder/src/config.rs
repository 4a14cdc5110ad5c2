use checkpoint::AudioConfig;
use omni_core::{Error, Result};

/// Log-mel frames of one second.
pub const MEL_PER_SECOND: usize = 100;

/// Windows the model was trained with, in seconds.
const SECONDS: std::ops::RangeInclusive<usize> = 1..=8;

/// Mel frames of one chunk: convolutions and positions start afresh in each.
pub(crate) fn chunk(config: &AudioConfig) -> usize {
    2 * config.n_window
}

/// Chunks of an attention window of so many seconds.
pub(crate) fn window_chunks(config: &AudioConfig, seconds: usize) -> Result<usize> {
    if !SECONDS.contains(&seconds) {
        let reason = format!("an attention window of {seconds} seconds: the audio encoder was trained with 1 to 8");
        return Err(Error::Request(reason));
    }
    Ok((seconds * MEL_PER_SECOND / chunk(config)).max(1))
}
