//! The decoder of H.264: OpenH264 with the feature `video`, and none without it.

#[cfg(feature = "video")]
mod built_in;
#[cfg(not(feature = "video"))]
mod missing;

#[cfg(feature = "video")]
pub(super) use built_in::{Decoder, Picture};
#[cfg(not(feature = "video"))]
pub(super) use missing::{Decoder, Picture};
