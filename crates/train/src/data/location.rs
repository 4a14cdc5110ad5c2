//! Places in files of lines, as errors name them.

use std::path::Path;
use std::sync::Arc;

use crate::Error;

/// Where a line stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file; relative paths of a line begin at its folder.
    pub path: Arc<Path>,
    /// The line, counted from 1.
    pub line: u64,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

impl Location {
    /// Makes the error of a line that is not as expected.
    pub(crate) fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::Data { path: self.path.to_path_buf(), line: self.line, reason: reason.into() }
    }
}
