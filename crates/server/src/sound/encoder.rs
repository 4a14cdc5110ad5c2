//! The interface of encoders of sound.

use crate::error::{ApiError, ApiResult};

/// Writes a file of sound piece by piece.
pub(crate) trait SoundEncoder: Send {
    /// Takes samples and returns the bytes that they complete.
    fn push(&mut self, samples: &[i16]) -> ApiResult<Vec<u8>>;

    /// Returns the last bytes.
    fn finish(&mut self) -> ApiResult<Vec<u8>>;
}

/// An encoder that failed at samples of ours.
pub(super) fn broken(what: &str, error: impl std::fmt::Debug) -> ApiError {
    tracing::error!(?error, "{what}");
    ApiError::internal()
}
