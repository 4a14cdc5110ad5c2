//! Reasons for an error: a text, and the error of another crate behind it.

use std::borrow::Cow;
use std::error::Error;
use std::{fmt, io};

use omni_core::BoxError;

/// What is wrong with some bytes, and the error of the system or of a decoder that it comes from.
///
/// [`crate::MediaError`] adds which bytes these are.
#[derive(Debug, Default)]
pub(crate) struct Reason {
    text: Cow<'static, str>,
    source: Option<BoxError>,
}

impl Reason {
    /// The words and the source are those of `error`.
    pub(crate) fn of(error: impl Error + Send + Sync + 'static) -> Self {
        Self::from(error.to_string()).caused_by(error)
    }

    /// Adds the error that this comes from.
    pub(crate) fn caused_by(self, error: impl Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Box::new(error)), ..self }
    }

    /// Replaces the text by what `words` makes of it; the source stays.
    pub(crate) fn reworded(self, words: impl FnOnce(&str) -> String) -> Self {
        Self { text: words(&self.text).into(), ..self }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn from_parts(text: String, source: Option<BoxError>) -> Self {
        Self { text: text.into(), source }
    }

    pub(crate) fn into_parts(self) -> (String, Option<BoxError>) {
        (self.text.into_owned(), self.source)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Reason {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<&'static str> for Reason {
    fn from(text: &'static str) -> Self {
        Self { text: text.into(), source: None }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self { text: text.into(), source: None }
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        Self::of(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_keep_the_source() {
        let reason = Reason::from(io::Error::from(io::ErrorKind::UnexpectedEof)).reworded(|why| format!("cut: {why}"));
        assert_eq!(reason.to_string(), "cut: unexpected end of file");
        let source = reason.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::UnexpectedEof));
    }
}
