use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::{Pixels, decode};
use crate::{Result, Source};

/// A picture as an application has it.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum ImageInput {
    /// A file or its bytes: PNG, JPEG, WebP, TIFF (first page), BMP or GIF (first frame); with the feature `video` and an installed
    /// `ffmpeg` HEIC or AVIF.
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

    /// Reads height and width of the upright picture from its header, without decoding a pixel.
    ///
    /// # Errors
    /// [`crate::MediaError`] if it cannot be read, is no picture, or larger than can be taken in.
    pub fn size(&self) -> Result<[usize; 2]> {
        match self {
            Self::Encoded(source) => decode::size(source),
            Self::Pixels(pixels) => Ok([pixels.height(), pixels.width()]),
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
