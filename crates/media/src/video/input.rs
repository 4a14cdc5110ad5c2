use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

use crate::Source;
use crate::image::{ImageInput, Pixels};

/// A video as an application has it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VideoInput {
    /// A file or its bytes: MP4 or MOV with H.264; anything else that an installed `ffmpeg` reads.
    Encoded(Source),
    /// Frames that are already chosen: all of them are taken.
    Images {
        /// The frames, in order.
        images: Arc<[ImageInput]>,
        /// Chosen frames per second of the video.
        frames_per_second: f64,
    },
}

impl VideoInput {
    /// Decoded frames that are already chosen, `frames_per_second` for each second of the video.
    pub fn frames(frames: Vec<Pixels>, frames_per_second: f64) -> Self {
        Self::images(frames, frames_per_second)
    }

    /// Pictures (files, bytes or pixels) as frames that are already chosen, `frames_per_second` for each second of the video.
    pub fn images(images: impl IntoIterator<Item = impl Into<ImageInput>>, frames_per_second: f64) -> Self {
        Self::Images { images: images.into_iter().map(Into::into).collect(), frames_per_second }
    }

    /// Name for messages: the file's, or what the input is instead.
    pub fn origin(&self) -> String {
        match self {
            Self::Encoded(source) => source.origin(),
            Self::Images { images, .. } => format!("{} chosen frames", images.len()),
        }
    }
}

impl<S: Into<Source>> From<S> for VideoInput {
    fn from(source: S) -> Self {
        Self::Encoded(source.into())
    }
}

impl fmt::Debug for VideoInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}
