//! Options of reading videos.

use serde::{Deserialize, Serialize};

use crate::image::{PatchSpec, PixelBounds};

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

/// Which frames are taken, their number being decided by rate and bounds.
///
/// The two programs that prepare video for this model family count alike but choose differently: of 10 frames of which 4 are taken,
/// the processor takes 0, 2, 5 and 7, the utilities 0, 3, 6 and 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VideoSampling {
    /// Frame `i * frames / n`, rounded down, as the video processor of `transformers` takes it: the first of each of `n` equal
    /// stretches. In a video with a variable rate it is the frame shown at that time.
    #[default]
    Processor,
    /// Frame `i * (frames - 1) / (n - 1)`, rounded to the nearest, as `qwen-omni-utils` takes it: the first, the last, and evenly
    /// spaced ones in between. Most scripts for the released models prepare video with it. Frames are counted, whatever their times.
    Utilities,
}

/// Accepted frame rates; others are mistakes, and would make positions that are not numbers.
pub(super) const RATES: std::ops::RangeInclusive<f64> = 0.001..=1000.0;
