//! Sound, pictures and video for Qwen3-Omni: from the files people have to the numbers the encoders take.
//!
//! No model code: samples and pixels only. What decodes files is behind a cargo feature for each kind (`audio`, `image`, `video`); without
//! it, samples, pixels and frames are still taken, sound and video files go to an installed `ffmpeg`, and picture files are an error.
//! * [`audio`]: any file or samples → 16 kHz, one channel → log-mel frames (paper, section 2.2).
//! * [`image`]: any picture or pixels → the exact integer bicubic resize → patches.
//! * [`video`]: frames sampled at a dynamic rate → patches, with the *effective* rate; the sound track besides.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod audio;
mod boxes;
mod error;
mod ffmpeg;
pub mod image;
mod reason;
mod source;
pub mod video;

pub use error::{MediaError, Result};
pub use source::Source;
pub use video::{Kind, kind};

#[cfg(all(doctest, feature = "audio", feature = "image", feature = "video"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
