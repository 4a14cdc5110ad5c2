//! What a layer does between its products, on rows of single-precision numbers.

use rayon::prelude::*;

use crate::elementwise::exp;
use crate::level::Processor;
use crate::memory::size;

/// Sums of so many interleaved parts, so that compilers can use vectors.
const PARTS: usize = 16;

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp::<false>(-x))
}

/// `sigmoid(x)`.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp::<false>(-x))
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

/// [`rms_norm`] in place.
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
    1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt()
}

/// LayerNorm of rows: `(x - mean) / sqrt(variance + eps) * weight + bias`, over all cores.
///
/// # Panics
/// If the lengths differ, or the rows are no whole ones.
pub fn layer_norm(x: &[f32], [weight, bias]: [&[f32]; 2], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    assert!(x.len() == y.len() && bias.len() == width && width > 0, "x, y [rows, width], weight, bias [width]");
    assert!(x.len().is_multiple_of(width), "x [rows, width]");
    let arch = Processor::best().arch;
    y.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).with_min_len(8).for_each(|(y, x)| {
        arch.dispatch(|| {
            let mean = sum(x, |x| x) / width as f32;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f32;
            let factor = 1.0 / (variance + eps).sqrt();
            let weights = weight.iter().zip(bias);
            y.iter_mut().zip(x).zip(weights).for_each(|((y, x), (weight, bias))| {
                *y = (x - mean) * factor * weight + bias;
            });
        });
    });
}

/// The sum of a function of all numbers.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<PARTS>();
    let mut sums = [0.0; PARTS];
    for chunk in chunks {
        (0..PARTS).for_each(|i| sums[i] += f(chunk[i]));
    }
    sums.into_iter().sum::<f32>() + rest.iter().map(|x| f(*x)).sum::<f32>()
}

/// Rotates one head: `x * cos + rotate_half(x) * sin`. `cos` and `sin` are those of the first half, which the second repeats.
///
/// # Panics
/// If the head is not twice as long as the tables.
#[inline(always)]
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    assert!(first.len() == second.len() && first.len() == sin.len(), "head [2 * half], cos, sin [half]");
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// Rotates the first heads of every row, as [`rotate`]; `cos` and `sin` are `[rows, half]`, a row of `x` begins every `stride`
/// numbers.
///
/// # Panics
/// If the rows are no whole ones or have not so many heads.
pub fn rotate_rows(x: &mut [f32], stride: usize, heads: usize, cos: &[f32], sin: &[f32]) {
    let rows = x.len().checked_div(stride).unwrap_or(0);
    let half = cos.len() / rows.max(1);
    assert!(x.len() == rows * stride && size([2, half, heads]) <= stride, "x [rows, stride]");
    assert!(cos.len() == rows * half && sin.len() == cos.len(), "cos, sin [rows, half]");
    if half == 0 || x.is_empty() {
        return;
    }
    let arch = Processor::best().arch;
    x.par_chunks_exact_mut(stride).enumerate().with_min_len(8).for_each(|(row, x)| {
        let of_row = row * half..(row + 1) * half;
        let (cos, sin) = (&cos[of_row.clone()], &sin[of_row]);
        arch.dispatch(|| x[..2 * half * heads].chunks_exact_mut(2 * half).for_each(|head| rotate(head, cos, sin)));
    });
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
    fn a_layer_norm_has_no_mean_and_unit_variance_before_its_weights() {
        let x: Vec<f32> = (0..3 * 37).map(|i| (i * i % 41) as f32 - 11.0).collect();
        let mut y = vec![0.0; 3 * 37];
        layer_norm(&x, [&[2.0; 37], &[5.0; 37]], 0.0, &mut y);
        for y in y.chunks(37) {
            let mean = y.iter().sum::<f32>() / 37.0;
            let variance = y.iter().map(|y| (y - mean).powi(2)).sum::<f32>() / 37.0;
            assert!((mean - 5.0).abs() < 1e-4 && (variance - 4.0).abs() < 1e-3, "{mean} {variance}");
        }
    }

    #[test]
    fn only_the_first_heads_of_a_row_turn() {
        let mut x = [1.0, 2.0, 5.0, 3.0, 4.0, 6.0];
        rotate_rows(&mut x, 3, 1, &[0.0, 1.0], &[1.0, 0.0]);
        assert_eq!(x, [-2.0, 1.0, 5.0, 3.0, 4.0, 6.0]);
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn more_heads_than_a_row_could_have_are_a_bug() {
        rotate_rows(&mut [0.0; 6], 3, usize::MAX / 2 + 1, &[0.0; 2], &[0.0; 2]);
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
