use std::path::{Path, PathBuf};

use qwen3_omni::media::MediaError;

/// What keeps a model from being measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A suite's files are not in the form that was expected.
    #[error("{}{}: {reason}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// The line, or the entry of a JSON list, counted from 1.
        line: Option<usize>,
        /// What was found and what was expected.
        reason: String,
    },
    /// Sound of a suite cannot be decoded.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The model cannot be loaded, or cannot answer.
    #[error(transparent)]
    Model(#[from] qwen3_omni::Error),
    /// The program that recognises speech failed.
    #[error("recogniser `{command}`: {reason}")]
    Recogniser {
        /// The command as it was given.
        command: String,
        /// What happened and what was expected.
        reason: String,
    },
    /// An item could not be measured.
    #[error("item `{id}`: {source}")]
    Item {
        /// Its id.
        id: String,
        /// What went wrong.
        source: Box<Error>,
    },
    /// The file of items was made by a run with other settings; its figures cannot be continued with these.
    #[error("{}: its run had {setting} {theirs}, this one has {ours}; another file or the same settings are needed", path.display())]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// The setting that differs.
        setting: String,
        /// Its value in the file, as JSON.
        theirs: String,
        /// Its value now, as JSON.
        ours: String,
    },
    /// Arguments that do not go together.
    #[error("{0}")]
    Request(String),
}

/// `Result` with [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn data(path: &Path, line: impl Into<Option<usize>>, reason: impl Into<String>) -> Self {
        Self::Data { path: path.to_owned(), line: line.into(), reason: reason.into() }
    }
}
