use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::{Pixels, decode};
use crate::{Result, Source};

/// A picture as an application has it.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum ImageInput {
    /// A file or its bytes: PNG, JPEG, WebP, BMP or GIF (first frame).
    Encoded(Source),
    /// Decoded pixels.
    Pixels(Arc<Pixels>),
}

impl ImageInput {
    /// Name for messages: the file's, or what the input is instead.
    pub fn origin(&self) -> String {
        match self {
            Self::Encoded(source) => source.origin(),
            Self::Pixels(pixels) => format!("{pixels:?}"),
        }
    }

    /// The decoded picture: upright, RGB, transparency laid over white.
    ///
    /// # Errors
    /// [`crate::MediaError`] if it cannot be read or decoded.
    pub fn pixels(&self) -> Result<Cow<'_, Pixels>> {
        match self {
            Self::Encoded(source) => decode::decode(source).map(Cow::Owned),
            Self::Pixels(pixels) => Ok(Cow::Borrowed(pixels)),
        }
    }
}

impl<S: Into<Source>> From<S> for ImageInput {
    fn from(source: S) -> Self {
        Self::Encoded(source.into())
    }
}

impl From<Pixels> for ImageInput {
    fn from(pixels: Pixels) -> Self {
        Self::Pixels(Arc::new(pixels))
    }
}

impl fmt::Debug for ImageInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}
