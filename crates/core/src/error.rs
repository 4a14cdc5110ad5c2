use std::path::PathBuf;

/// The error of another crate that an [`enum@Error`] came from. `downcast_ref` gives its type back: `CheckpointError` of the crate
/// `checkpoint`, `MediaError` of `media`, which have sources of their own.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong where the outside world enters: files, requests, media, devices.
///
/// Each message names the thing (file, message part, tensor, option) and what was expected. It is complete: a source, which programs may look
/// into, has nothing to add to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration file is missing a key, has a wrong value, or contradicts another file.
    #[error("config: {reason}")]
    Config {
        /// What was found and what was expected.
        reason: String,
        /// The error of the part that noticed it; `reason` has its text.
        #[source]
        source: Option<BoxError>,
    },
    /// Weights on disk are missing, unexpected, misshapen or unreadable.
    #[error("weights: {reason}")]
    Weights {
        /// What was found and what was expected.
        reason: String,
        /// The error of the part that noticed it; `reason` has its text.
        #[source]
        source: Option<BoxError>,
    },
    /// A media part could not be decoded.
    #[error("media in {part}: {reason}")]
    Media {
        /// Which message and part, counted from 1.
        part: String,
        /// What was found and what was expected.
        reason: String,
        /// The error of the decoder or of the system; `reason` has its text.
        #[source]
        source: Option<BoxError>,
    },
    /// The request cannot be served as it stands: an empty conversation, an unknown speaker, absurd options.
    #[error("request: {0}")]
    Request(String),
    /// A grammar or schema that an answer should follow cannot be used, or cannot be followed to its end.
    #[error("grammar: {0}")]
    Grammar(String),
    /// The conversation does not fit the model's context.
    #[error(
        "the prompt has {tokens} tokens or more, but the model's context holds {limit} including at least one for the answer"
    )]
    ContextLength {
        /// Tokens of the prompt, or the fewest that its text can have.
        tokens: usize,
        /// Positions the model was made for.
        limit: usize,
    },
    /// Something this build or this checkpoint kind does not offer.
    #[error("unsupported: {reason}")]
    Unsupported {
        /// What was found and what was expected.
        reason: String,
        /// The error of the part that noticed it; `reason` has its text.
        #[source]
        source: Option<BoxError>,
    },
    /// Less memory is available than the weights need; no weight was read.
    #[error(
        "memory: the weights need {needed} bytes ({:.1} GB), but {available} ({:.1} GB) are available{advice}",
        *needed as f64 / 1e9, *available as f64 / 1e9
    )]
    Memory {
        /// Bytes that would have to be held in memory.
        needed: u64,
        /// Bytes available according to the system, or to the limit that was set.
        available: u64,
        /// How to get by with less memory; begins with a separator.
        advice: &'static str,
    },
    /// A part of the model that the request needs was not loaded.
    #[error("not loaded: {0}")]
    NotLoaded(String),
    /// As many answers are running as the limit allows. Nothing was started; the request can be repeated when one of them has
    /// ended.
    #[error("busy: {running} answers are being made, and no more than {limit} may be at once")]
    Busy {
        /// Answers that are running.
        running: usize,
        /// Most answers that may run at the same time.
        limit: usize,
    },
    /// A file system operation failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The work was cancelled before it finished.
    #[error("cancelled")]
    Cancelled,
    /// A part of the model produced NaN or infinite values.
    #[error("the {stage} produced NaN or infinite values: its weights are damaged, or too large for the number type")]
    NotFinite {
        /// The part of the model.
        stage: &'static str,
    },
    /// The device is absent, failed, or lacks a number type.
    #[error("device: {0}")]
    Device(String),
}

/// `Result` with [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an [`Error::Io`] for `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    /// Makes an [`Error::Config`]; [`Error::caused_by`] adds what caused it.
    pub fn config(reason: impl Into<String>) -> Self {
        Error::Config { reason: reason.into(), source: None }
    }

    /// Makes an [`Error::Weights`]; [`Error::caused_by`] adds what caused it.
    pub fn weights(reason: impl Into<String>) -> Self {
        Error::Weights { reason: reason.into(), source: None }
    }

    /// Makes an [`Error::Unsupported`]; [`Error::caused_by`] adds what caused it.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Error::Unsupported { reason: reason.into(), source: None }
    }

    /// Makes an [`Error::Media`] for `part`, the message and the part counted from 1; [`Error::caused_by`] adds what caused it.
    pub fn media(part: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Media { part: part.into(), reason: reason.into(), source: None }
    }

    /// Sets the source of a `Config`, `Weights`, `Unsupported` or `Media`; the text stays as it is.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<BoxError>) -> Self {
        if let Error::Config { source, .. }
        | Error::Weights { source, .. }
        | Error::Unsupported { source, .. }
        | Error::Media { source, .. } = &mut self
        {
            *source = Some(cause.into());
        }
        self
    }
}
