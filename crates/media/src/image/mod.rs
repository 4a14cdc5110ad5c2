//! Pictures: files or pixels → the exact integer bicubic resize → patches.
//!
//! ```
//! use qwen3_omni_media::image::{ImageInput, ImageOptions, Pixels, patches};
//!
//! let grey = Pixels::new(100, 75, vec![128; 100 * 75 * 3])?;
//! let picture = patches(&ImageInput::from(grey), &ImageOptions::default())?;
//! assert_eq!((picture.grid(), picture.patches()), ([1, 4, 6], 24)); // 64 × 96 pixels
//! # Ok::<(), qwen3_omni_media::MediaError>(())
//! ```

mod decode;
mod input;
mod patches;
mod pixels;
mod resize;
mod size;

pub use input::ImageInput;
pub use patches::Patches;
pub use pixels::Pixels;
pub use resize::resize;
pub use size::{PixelBounds, target_size};

use crate::Result;

/// How pictures are prepared. `Default` is what the released model ships with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageOptions {
    /// Pixels of the resized picture.
    pub bounds: PixelBounds,
    /// Sizes of the vision encoder.
    pub patch: PatchSpec,
}

/// How the vision encoder cuts pictures; `Default` is the released encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchSpec {
    /// Side of a patch in pixels.
    pub side: usize,
    /// Frames per patch.
    pub frames: usize,
    /// Patches per side of a merged row.
    pub merge: usize,
}

impl PatchSpec {
    /// Sides of a resized picture are multiples of this.
    pub fn factor(&self) -> usize {
        self.side * self.merge
    }

    /// Merged rows of `frames` frames of the size of `frame`.
    #[cfg(feature = "video")]
    pub(crate) fn tokens(&self, frames: usize, frame: &Pixels) -> usize {
        frames.div_ceil(self.frames.max(1)) * (frame.width() / self.factor()) * (frame.height() / self.factor())
    }
}

impl Default for PatchSpec {
    fn default() -> Self {
        Self { side: 16, frames: 2, merge: 2 }
    }
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self { bounds: PixelBounds { min: 3136, max: 12_845_056 }, patch: PatchSpec::default() }
    }
}

/// Decodes, resizes and cuts one picture into patches for the vision encoder.
///
/// # Errors
/// [`crate::MediaError`] if the picture cannot be read or decoded, is larger than can be taken in, or far from square.
pub fn patches(input: &ImageInput, options: &ImageOptions) -> Result<Patches> {
    let origin = input.origin();
    let fitted = fit(&*input.pixels()?, options.bounds, options.patch).map_err(|error| error.named(origin))?;
    Patches::cut(&[fitted], options.patch)
}

/// Resizes a picture to the size the encoder reads.
pub(crate) fn fit(pixels: &Pixels, bounds: PixelBounds, patch: PatchSpec) -> Result<Pixels> {
    let [height, width] = target_size([pixels.height(), pixels.width()], patch.factor(), bounds)?;
    Ok(resize(pixels, width, height))
}
