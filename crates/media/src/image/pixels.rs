use std::fmt;

use crate::{MediaError, Result};
use serde::{Deserialize, Serialize};

/// Most pixels of a picture. A larger one is refused by its header alone; it would need a gigabyte to decode.
#[cfg(feature = "image")]
pub(super) const MOST_PIXELS: u64 = 178_956_970;

/// A decoded picture: 8-bit RGB, row by row.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawPixels")]
pub struct Pixels {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// Pixels before their number is checked against width and height.
#[derive(Deserialize)]
struct RawPixels {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl TryFrom<RawPixels> for Pixels {
    type Error = MediaError;

    fn try_from(raw: RawPixels) -> Result<Self> {
        Self::new(raw.width, raw.height, raw.rgb)
    }
}

impl Pixels {
    /// Makes a picture from `height * width * 3` values.
    ///
    /// # Errors
    /// [`MediaError::Unusable`] if a side is 0 or the length does not fit.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        if width == 0 || height == 0 || expected != Some(rgb.len()) {
            let reason = format!("{} values cannot be {width} × {height} pixels of 3 colours", rgb.len());
            return Err(MediaError::unusable("pixels", reason));
        }
        Ok(Self { width, height, rgb })
    }

    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {} pixels", self.width, self.height)
    }
}

/// Lays RGB with transparency over white.
#[cfg(feature = "image")]
pub(super) fn over_white(width: usize, height: usize, rgba: &[u8]) -> Result<Pixels> {
    let (pixels, _) = rgba.as_chunks::<4>();
    let blended = |[r, g, b, a]: &[u8; 4]| [*r, *g, *b].map(|x| blend(x, *a));
    Pixels::new(width, height, pixels.iter().flat_map(blended).collect())
}

/// `round((x * a + 255 * (255 - a)) / 255)`; a half cannot occur, as 255 is odd.
#[cfg(feature = "image")]
pub(super) fn blend(x: u8, alpha: u8) -> u8 {
    let (x, alpha) = (u32::from(x), u32::from(alpha));
    ((x * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}
