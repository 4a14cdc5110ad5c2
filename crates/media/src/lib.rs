//! Sound, pictures and video for Qwen3-Omni: from the files people have to the numbers the encoders take.
//!
//! No model code: samples and pixels only. Each kind is a cargo feature (`audio`, `image`, `video`).
//! * [`audio`]: any file or samples → 16 kHz, one channel → log-mel frames (paper, section 2.2).
//! * [`image`]: any picture or pixels → the exact integer bicubic resize → patches.
//! * [`video`]: frames sampled at a dynamic rate → patches, with the *effective* rate; the sound track besides.

#[cfg(feature = "audio")]
pub mod audio;
mod error;
#[cfg(feature = "audio")]
mod ffmpeg;
#[cfg(feature = "image")]
pub mod image;
mod source;
#[cfg(feature = "video")]
pub mod video;

pub use error::{MediaError, Result};
pub use source::Source;

#[cfg(all(doctest, feature = "video"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
