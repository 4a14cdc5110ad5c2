use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};

use crate::reason::Reason;
use crate::{MediaError, Result};

/// Where encoded contents lie.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
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

    /// Checks that a path names a regular file, before it is opened: a pipe would be waited for. Returns its length, or that of the
    /// bytes.
    pub(crate) fn check(&self) -> Result<u64> {
        match self {
            Source::Bytes(bytes) => Ok(bytes.len() as u64),
            Source::Path(path) => {
                let metadata = std::fs::metadata(path);
                let metadata = metadata.map_err(|source| MediaError::Io { path: path.clone(), source })?;
                match metadata.is_file() {
                    true => Ok(metadata.len()),
                    false => Err(MediaError::unsupported(self.origin(), "this is no file")),
                }
            }
        }
    }
}

/// Characters of a `data:` URI before its data.
const MOST_HEAD: usize = 256;

impl Source {
    /// The contents that a text holds in base64: alone, or as a `data:` URI such as browsers and web services send. The kind that the
    /// URI names is ignored, since contents tell their own.
    ///
    /// # Errors
    /// [`MediaError::Unusable`] for any other text.
    pub fn from_base64(text: &str) -> Result<Self> {
        let refused = |reason: Reason| MediaError::unusable("base64 data", reason);
        let data = match text.strip_prefix("data:") {
            None => text,
            Some(rest) => {
                let comma = rest.find(',').filter(|comma| *comma <= MOST_HEAD);
                let comma = comma.ok_or_else(|| refused("a data URI without a comma before its data".into()))?;
                let encoded = rest[..comma].ends_with(";base64");
                encoded
                    .then(|| &rest[comma + 1..])
                    .ok_or_else(|| refused("a data URI whose data is not base64".into()))?
            }
        };
        // Encoders wrap lines, and web services use the alphabet of URLs and leave out the padding.
        let letters: Vec<u8> = data.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let url = letters.iter().any(|byte| matches!(byte, b'-' | b'_'));
        let alphabet = if url { alphabet::URL_SAFE } else { alphabet::STANDARD };
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let bytes =
            GeneralPurpose::new(&alphabet, lenient).decode(letters).map_err(|error| refused(Reason::of(error)))?;
        Ok(bytes.into())
    }
}

/// The form in which a source is serialised: `{"path": …}` or `{"base64": …}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Written {
    Path(PathBuf),
    Base64(String),
}

impl From<Source> for Written {
    fn from(source: Source) -> Self {
        match source {
            Source::Path(path) => Self::Path(path),
            Source::Bytes(bytes) => Self::Base64(base64::engine::general_purpose::STANDARD.encode(bytes)),
        }
    }
}

impl TryFrom<Written> for Source {
    type Error = MediaError;

    fn try_from(written: Written) -> Result<Self> {
        match written {
            Written::Path(path) => Ok(Self::Path(path)),
            Written::Base64(text) => Self::from_base64(&text),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_alone_in_a_uri_with_line_ends_and_in_either_alphabet() {
        let bytes: &[u8] = &[0xfb, 0xff, 0xfe, b'R'];
        for text in [
            "+//+Ug==",
            "+//+Ug",
            "-__-Ug",
            "+//+\r\nUg==\n",
            "data:audio/wav;base64,+//+Ug==",
            "data:;base64,+//+Ug==",
        ] {
            assert_eq!(Source::from_base64(text).unwrap(), bytes.into(), "{text}");
        }
        for (text, reason) in [
            ("data:audio/wav,RIFF", "not base64"),
            ("data:audio/wav;base64", "without a comma"),
            ("http://a.b/c.wav", "base64 data"),
            ("+//+Ug=*", "base64 data"),
        ] {
            let message = Source::from_base64(text).unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }
}
