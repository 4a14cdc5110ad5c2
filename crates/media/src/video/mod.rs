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

mod ffmpeg;
mod input;
mod kinds;
mod mp4;
mod plan;
mod reader;
mod sampling;
mod sound;
#[cfg(feature = "image")]
pub(crate) mod stills;
mod track;

pub use input::VideoInput;
pub use kinds::{Kind, kind};
#[cfg(feature = "image")]
pub(crate) use mp4::boxes;
pub use plan::{Plan, plan};
pub use sampling::{VideoSampling, sample_indices};
pub use sound::has_sound;

use crate::Result;
use crate::image::{PatchSpec, Patches, PixelBounds};
use serde::{Deserialize, Serialize};

/// How videos are prepared. `Default` is the reference's processor with its sampling switched on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
#[non_exhaustive]
pub struct VideoOptions {
    /// Frames taken per second of video.
    pub frames_per_second: f64,
    /// Frames taken at least, if the video has them.
    pub min_frames: usize,
    /// Frames taken at most.
    pub max_frames: usize,
    /// Which frames are taken.
    pub sampling: VideoSampling,
    /// Pixels of each resized frame.
    pub bounds: PixelBounds,
    /// Tokens of all frames together, to which frames are shrunk that would make more: each gets an even share, but no less than 1.05
    /// times the lower bound. `None` for no total.
    ///
    /// This is the total of the reference's utility, `total_pixels`, and of its processor's `cap_pixels_per_frame`: there 0.9 times
    /// 128,000 tokens.
    pub token_budget: Option<usize>,
    /// Most tokens of a video; one that has more even so is refused before its frames are decoded.
    pub max_tokens: usize,
    /// Sizes of the vision encoder.
    pub patch: PatchSpec,
}

omni_core::setters! { VideoOptions {
    frames_per_second: f64,
    min_frames: usize,
    max_frames: usize,
    sampling: VideoSampling,
    bounds: PixelBounds,
    token_budget: impl Into<Option<usize>> => token_budget.into(),
    max_tokens: usize,
    patch: PatchSpec,
} }

impl Default for VideoOptions {
    fn default() -> Self {
        Self {
            frames_per_second: 2.0,
            min_frames: 4,
            max_frames: 768,
            sampling: VideoSampling::default(),
            bounds: PixelBounds { min: 131_072, max: 786_432 },
            token_budget: None,
            max_tokens: usize::MAX,
            patch: PatchSpec::default(),
        }
    }
}

/// A video, ready for the vision encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    patches: Patches,
    frames_per_second: f64,
    per_step: usize,
}

impl Clip {
    /// The patches of all frames.
    pub fn patches(&self) -> &Patches {
        &self.patches
    }

    /// The patches of all frames.
    pub fn into_patches(self) -> Patches {
        self.patches
    }

    /// The *effective* rate: frames taken, divided by the video's length.
    pub fn frames_per_second(&self) -> f64 {
        self.frames_per_second
    }

    /// Seconds from one step of the grid to the next; positions in time follow from it.
    pub fn seconds_per_step(&self) -> f32 {
        (self.per_step as f64 / self.frames_per_second) as f32
    }
}

/// Samples the frames of a video and cuts them into patches.
///
/// # Errors
/// The errors of [`plan`] and [`Plan::clip`].
pub fn clip(input: &VideoInput, options: &VideoOptions) -> Result<Clip> {
    plan(input, options)?.clip()
}

/// The reason given for contents that are not a video.
const NO_VIDEO: &str = "there is no video track";

/// Accepted frame rates; others are mistakes, and would make positions that are not numbers.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1000.0;
