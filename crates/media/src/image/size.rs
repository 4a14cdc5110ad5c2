use crate::{MediaError, Result};
use serde::{Deserialize, Serialize};

/// Fewest and most pixels of a resized picture or frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PixelBounds {
    /// Smaller ones are enlarged.
    pub min: usize,
    /// Larger ones are reduced.
    pub max: usize,
}

/// Most pixels that a picture may be enlarged to.
const MOST_PIXELS: usize = 1 << 26;

/// Largest ratio of the long side to the short one.
const MOST_RATIO: usize = 200;

/// The size `[height, width]` a picture is resized to: multiples of `factor`, the shape kept as far as that allows, the
/// pixels within the bounds.
///
/// # Errors
/// [`MediaError::Unusable`] if a side is 0, or one is more than 200 times the other.
pub fn target_size([height, width]: [usize; 2], factor: usize, bounds: PixelBounds) -> Result<[usize; 2]> {
    let (long, short) = (height.max(width), height.min(width));
    if short == 0 || long > MOST_RATIO * short {
        let reason =
            format!("{width} × {height} pixels: the long side may be at most {MOST_RATIO} times the short one");
        return Err(MediaError::unusable("picture", reason));
    }
    if factor == 0 || bounds.min > bounds.max || bounds.min > MOST_PIXELS {
        let PixelBounds { min, max } = bounds;
        let reason = format!("bounds of {min} to {max} pixels in steps of {factor}: nothing fits them");
        return Err(MediaError::unusable("picture options", reason));
    }
    let step = factor as f64;
    let rounded = [height, width].map(|side| (side as f64 / step).round_ties_even() as usize * factor);
    let pixels = (height * width) as f64;
    let [h, w] = rounded;
    if h * w > bounds.max {
        let shrink = (pixels / bounds.max as f64).sqrt();
        return Ok([height, width].map(|side| factor.max((side as f64 / shrink / step).floor() as usize * factor)));
    }
    if h * w < bounds.min {
        let grow = (bounds.min as f64 / pixels).sqrt();
        return Ok([height, width].map(|side| (side as f64 * grow / step).ceil() as usize * factor));
    }
    // Bounds of 0 would let a side vanish.
    Ok(rounded.map(|side| side.max(factor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn narrow_pictures_are_refused_with_their_size() {
        let bounds = PixelBounds { min: 3136, max: 12_845_056 };
        assert!(target_size([1, 200], 32, bounds).is_ok());
        for size in [[1, 4000], [201, 1], [0, 10]] {
            let message = target_size(size, 32, bounds).unwrap_err().to_string();
            assert!(message.contains("200 times"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn sizes_are_multiples_within_the_bounds(height in 1usize..5000, width in 1usize..5000) {
            prop_assume!(height.max(width) <= 200 * height.min(width));
            let bounds = PixelBounds { min: 3136, max: 1_000_000 };
            let [h, w] = target_size([height, width], 32, bounds).unwrap();
            prop_assert!(h > 0 && w > 0 && h % 32 == 0 && w % 32 == 0);
            prop_assert!(h * w >= bounds.min);
            // The short side of an extreme shape cannot go below one merged row.
            prop_assert!(h * w <= bounds.max || h == 32 || w == 32, "{h} {w}");
        }
    }
}
