//! Video: files or frames → frames sampled at a dynamic rate → patches, with the effective rate.
//!
//! MP4 and MOV with H.264 are decoded here; every other format needs the program `ffmpeg` on `PATH`. A frame is resized
//! as soon as it is decoded and cut as soon as its time step is complete, and files are read sample by sample, so that a long video
//! never lies in memory at full size. [`plan`] tells the tokens before frames are decoded.
//!
//! ```
//! use qwen3_omni_media::image::Pixels;
//! use qwen3_omni_media::video::{VideoInput, VideoOptions, clip};
//!
//! let frames = vec![Pixels::new(64, 64, vec![9; 64 * 64 * 3])?; 8];
//! let clip = clip(&VideoInput::frames(frames, 4.0), &VideoOptions::default())?;
//! assert_eq!((clip.patches().grid()[0], clip.seconds_per_step()), (4, 0.5));
//! # Ok::<(), qwen3_omni_media::MediaError>(())
//! ```

mod clip;
mod ffmpeg;
mod input;
mod kinds;
mod mp4;
mod options;
mod plan;
mod reader;
mod sampling;
mod sound;
mod track;

pub use clip::Clip;
pub use input::VideoInput;
pub use kinds::{Kind, kind};
pub use options::{VideoOptions, VideoSampling};
pub use plan::{Plan, plan};
pub use sampling::sample_indices;
pub use sound::has_sound;

use crate::Result;

/// Samples the frames of a video and cuts them into patches.
///
/// # Errors
/// The errors of [`plan`] and [`Plan::clip`].
pub fn clip(input: &VideoInput, options: &VideoOptions) -> Result<Clip> {
    plan(input, options)?.clip()
}
