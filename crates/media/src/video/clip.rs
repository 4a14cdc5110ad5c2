//! The frames of a video, cut into patches.

use crate::image::Patches;

/// A video, ready for the vision encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    pub(super) patches: Patches,
    pub(super) frames_per_second: f64,
    /// Frames of one step of the grid.
    pub(super) per_step: usize,
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
