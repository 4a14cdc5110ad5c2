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

#[cfg(feature = "image")]
mod decode;
#[cfg(feature = "image")]
mod heif;
mod input;
#[cfg(feature = "image")]
mod jpeg;
mod patches;
mod pixels;
mod resize;
mod signature;
mod size;
#[cfg(feature = "image")]
mod stills;

pub use input::ImageInput;
pub(crate) use patches::Cutter;
pub use patches::{PatchSpec, Patches};
pub use pixels::Pixels;
pub use resize::resize;
pub(crate) use signature::is_picture;
pub use size::{PixelBounds, target_size};

use crate::Result;

/// How pictures are prepared. `Default` is what the released model ships with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct ImageOptions {
    /// Pixels of the resized picture.
    pub bounds: PixelBounds,
    /// Sizes of the vision encoder.
    pub patch: PatchSpec,
}

omni_core::setters! { ImageOptions {
    bounds: PixelBounds,
    patch: PatchSpec,
} }

impl Default for ImageOptions {
    fn default() -> Self {
        Self { bounds: PixelBounds { min: 3136, max: 12_845_056 }, patch: PatchSpec::default() }
    }
}

/// Reads the header of a picture and tells the grid `[t, h, w]` of its patches, without decoding a pixel.
///
/// # Errors
/// [`crate::MediaError`] if the header cannot be read, or the picture is larger than can be taken in, or far from square.
pub fn grid(input: &ImageInput, options: &ImageOptions) -> Result<[usize; 3]> {
    let size = target_size(input.size()?, options.patch.factor(), options.bounds);
    Ok(options.patch.grid(1, size.map_err(|error| error.named(input.origin()))?))
}

/// Decodes, resizes and cuts one picture into patches for the vision encoder.
///
/// # Errors
/// [`crate::MediaError`] if the picture cannot be read or decoded, is larger than can be taken in, or far from square.
pub fn patches(input: &ImageInput, options: &ImageOptions) -> Result<Patches> {
    let size = target_size(input.size()?, options.patch.factor(), options.bounds);
    let fitted = resized(input, size.map_err(|error| error.named(input.origin()))?)?;
    let mut cutter = Cutter::new(options.patch, [fitted.height(), fitted.width()], 1)?;
    cutter.push(fitted)?;
    cutter.finish()
}

/// Decodes a picture and resizes it to `[height, width]`; the picture of its own size is freed.
pub(crate) fn resized(input: &ImageInput, [height, width]: [usize; 2]) -> Result<Pixels> {
    Ok(resize(&*input.pixels()?, width, height))
}
