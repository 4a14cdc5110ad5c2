#[cfg(any(feature = "audio", feature = "image"))]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use omni_core::BoxError;

use crate::reason::Reason;

/// What can be wrong with a file, bytes, samples or pixels.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The contents cannot be decoded, or are cut off.
    #[error("{origin}: {reason}")]
    Damaged {
        /// The file, or "bytes in memory".
        origin: String,
        /// What was found and what was expected.
        reason: String,
        /// The system's or decoder's error behind this one; `reason` has its text.
        source: Option<BoxError>,
    },
    /// The contents are of a kind that is not read here.
    #[error("{origin}: {reason}")]
    Unsupported {
        /// The file, or "bytes in memory".
        origin: String,
        /// What was found and what is read.
        reason: String,
        /// The system's or decoder's error behind this one; `reason` has its text.
        source: Option<BoxError>,
    },
    /// The contents are sound but cannot be used: too short, too long, too large, empty, not numbers.
    #[error("{origin}: {reason}")]
    Unusable {
        /// The file, or what kind of values they are.
        origin: String,
        /// What was found and what was expected.
        reason: String,
        /// The system's or decoder's error behind this one; `reason` has its text.
        source: Option<BoxError>,
    },
}

/// For code that reads media outside of a message; within one, [`MediaError::in_part`] names the part.
impl From<MediaError> for omni_core::Error {
    fn from(error: MediaError) -> Self {
        error.in_part("media")
    }
}

/// `Result` with [`MediaError`].
pub type Result<T, E = MediaError> = std::result::Result<T, E>;

impl MediaError {
    /// Converts to the workspace's error; `part` names the message and the part, counted from 1.
    pub fn in_part(self, part: impl Into<String>) -> omni_core::Error {
        omni_core::Error::media(part, self.to_string()).caused_by(self)
    }

    pub(crate) fn unusable(origin: impl Into<String>, reason: impl Into<Reason>) -> Self {
        let (reason, source) = reason.into().into_parts();
        Self::Unusable { origin: origin.into(), reason, source }
    }
}

impl MediaError {
    /// The same error with `name` as its origin.
    pub(crate) fn named(mut self, name: String) -> Self {
        if let Self::Damaged { origin, .. } | Self::Unsupported { origin, .. } | Self::Unusable { origin, .. } =
            &mut self
        {
            *origin = name;
        }
        self
    }

    /// The same error with the error that it comes from.
    pub(crate) fn caused_by(mut self, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        if let Self::Damaged { source, .. } | Self::Unsupported { source, .. } | Self::Unusable { source, .. } =
            &mut self
        {
            *source = Some(Box::new(error));
        }
        self
    }

    /// The same error, which comes from what another reader refused the contents for, unless it comes from something else.
    pub(crate) fn refused_for(mut self, reason: Reason) -> Self {
        if let Self::Unsupported { source: source @ None, .. } = &mut self {
            *source = reason.into_parts().1;
        }
        self
    }

    /// What is wrong, without the origin.
    pub(crate) fn into_reason(self) -> Reason {
        match self {
            Self::Io { source, .. } => source.into(),
            Self::Damaged { reason, source, .. }
            | Self::Unsupported { reason, source, .. }
            | Self::Unusable { reason, source, .. } => Reason::from_parts(reason, source),
        }
    }

    pub(crate) fn damaged(origin: impl Into<String>, reason: impl Into<Reason>) -> Self {
        let (reason, source) = reason.into().into_parts();
        Self::Damaged { origin: origin.into(), reason, source }
    }

    pub(crate) fn unsupported(origin: impl Into<String>, reason: impl Into<Reason>) -> Self {
        let (reason, source) = reason.into().into_parts();
        Self::Unsupported { origin: origin.into(), reason, source }
    }
}

/// Runs a decoder's code on contents that may have been made to break it.
///
/// The decoders check much, but not all: some counts and shifts that no honest file has still panic. That must not end the program
/// of whoever was sent such a file, so it ends here, and what was left half done is dropped.
#[cfg(any(feature = "audio", feature = "image"))]
pub(crate) fn guarded<T>(origin: &str, run: impl FnOnce() -> T) -> Result<T> {
    let broken = |_| MediaError::damaged(origin, "the contents are broken in a way that its decoder cannot handle");
    catch_unwind(AssertUnwindSafe(run)).map_err(broken)
}
