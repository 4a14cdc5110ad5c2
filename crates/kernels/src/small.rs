//! What a decoder layer does between its products, on rows of single-precision numbers.

use crate::elementwise::exp;

/// Sums of so many interleaved parts, so that compilers can use vectors.
const PARTS: usize = 16;

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `sigmoid(x)`.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// RMSNorm of one row: `x / sqrt(mean(x²) + eps) * weight`.
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == y.len(), "x, weight, y [width]");
    let factor = inverse_rms(x, eps);
    y.iter_mut().zip(x).zip(weight).for_each(|((y, x), weight)| *y = x * factor * weight);
}

/// As [`rms_norm`], in place.
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    assert_eq!(x.len(), weight.len(), "x, weight [width]");
    let factor = inverse_rms(x, eps);
    x.iter_mut().zip(weight).for_each(|(x, weight)| *x *= factor * weight);
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<PARTS>();
    let mut sums = [0.0; PARTS];
    for chunk in chunks {
        (0..PARTS).for_each(|i| sums[i] += chunk[i] * chunk[i]);
    }
    let sum = sums.into_iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

/// Rotates one head: `x * cos + rotate_half(x) * sin`. `cos` and `sin` are those of the first half, which the second repeats.
///
/// # Panics
/// If the head is not twice as long as the tables.
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    assert!(first.len() == second.len() && first.len() == sin.len(), "head [2 * half], cos, sin [half]");
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// `gate = silu(gate) * up`.
///
/// # Panics
/// If the lengths differ.
pub fn silu_multiply(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate, up");
    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = silu(*gate) * up);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_has_unit_mean_square_and_scales() {
        let x: Vec<f32> = (0..37).map(|i| i as f32 - 11.0).collect();
        let mut y = vec![0.0; 37];
        rms_norm(&x, &[2.0; 37], 0.0, &mut y);
        let square: f32 = y.iter().map(|y| y * y).sum::<f32>() / 37.0;
        assert!((square - 4.0).abs() < 1e-4, "{square}");
        let mut z = x;
        rms_norm_in_place(&mut z, &[2.0; 37], 0.0);
        assert!(y.iter().zip(&z).all(|(y, z)| (y - z).abs() < 1e-5));
    }

    #[test]
    fn a_quarter_turn() {
        let mut head = [1.0, 2.0, 3.0, 4.0];
        rotate(&mut head, &[0.0, 1.0], &[1.0, 0.0]);
        assert_eq!(head, [-3.0, 2.0, 1.0, 4.0]);
    }

    #[test]
    fn silu_of_known_values() {
        let mut gate = [0.0, 1.0, -20.0];
        silu_multiply(&mut gate, &[3.0, 2.0, 1.0]);
        assert!((gate[1] - 2.0 * 0.731_058_6).abs() < 1e-5 && gate[0] == 0.0 && gate[2].abs() < 1e-6);
        assert_eq!(sigmoid(0.0), 0.5);
    }
}
