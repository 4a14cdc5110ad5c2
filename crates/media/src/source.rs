use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where encoded contents lie.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// A file; nothing is read before it is needed.
    Path(PathBuf),
    /// A file's contents in memory.
    Bytes(Arc<[u8]>),
}

impl Source {
    /// The file's name for messages, or "bytes in memory".
    pub fn origin(&self) -> String {
        match self {
            Source::Path(path) => path.display().to_string(),
            Source::Bytes(bytes) => format!("{} bytes in memory", bytes.len()),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}

impl From<&str> for Source {
    fn from(path: &str) -> Self {
        Source::Path(path.into())
    }
}

impl From<String> for Source {
    fn from(path: String) -> Self {
        Source::Path(path.into())
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Source::Path(path.to_owned())
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Source::Path(path)
    }
}

impl From<&PathBuf> for Source {
    fn from(path: &PathBuf) -> Self {
        Source::Path(path.clone())
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Source::Bytes(bytes.into())
    }
}

impl From<&[u8]> for Source {
    fn from(bytes: &[u8]) -> Self {
        Source::Bytes(bytes.into())
    }
}

impl From<Arc<[u8]>> for Source {
    fn from(bytes: Arc<[u8]>) -> Self {
        Source::Bytes(bytes)
    }
}
