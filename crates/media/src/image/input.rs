use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "image")]
use super::decode;
use super::pixels::Pixels;
use crate::{Result, Source};

/// A picture as an application has it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ImageInput {
    /// A file or its bytes: PNG, JPEG, WebP, TIFF (first page), BMP or GIF (first frame); with an installed `ffmpeg` HEIC or AVIF.
    /// Needs the feature `image`.
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

/// Stands in for the decoders in a build without the feature `image`.
#[cfg(not(feature = "image"))]
mod decode {
    use super::Pixels;
    use crate::{MediaError, Result, Source};

    pub(super) fn size(source: &Source) -> Result<[usize; 2]> {
        source.check()?;
        let reason = "this program was built without the feature `image`, which decodes picture files";
        Err(MediaError::unsupported(source.origin(), reason))
    }

    pub(super) fn decode(source: &Source) -> Result<Pixels> {
        size(source).map(|_| unreachable!("it is an error"))
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
