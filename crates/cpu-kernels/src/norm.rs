//! RMSNorm and LayerNorm.
/// Interleaved partial sums, so that compilers vectorise the reduction.
const PARTS: usize = 16;

use rayon::prelude::*;

use crate::simd::{Processor, Vectorized};

/// RMSNorm of one row: `x / sqrt(mean(x²) + eps) * weight`.
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == y.len(), "x, weight, y [width]");
    let factor = inverse_rms(x, eps);
    y.iter_mut().zip(x).zip(weight).for_each(|((y, x), weight)| *y = x * factor * weight);
}

/// Normalises one row in place; see [`rms_norm`].
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    assert_eq!(x.len(), weight.len(), "x, weight [width]");
    let factor = inverse_rms(x, eps);
    x.iter_mut().zip(weight).for_each(|(x, weight)| *x *= factor * weight);
}

#[inline(always)]
pub(crate) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt()
}

/// LayerNorm of rows: `(x - mean) / sqrt(variance + eps) * weight + bias`, over all cores.
///
/// # Panics
/// If the lengths differ, or `x` is not a whole number of rows.
pub fn layer_norm(x: &[f32], [weight, bias]: [&[f32]; 2], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    assert!(x.len() == y.len() && bias.len() == width && width > 0, "x, y [rows, width], weight, bias [width]");
    assert!(x.len().is_multiple_of(width), "x [rows, width]");
    let arch = Processor::best().arch;
    y.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).with_min_len(8).for_each(|(y, x)| {
        arch.dispatch(Vectorized(
            #[inline(always)]
            || {
                let mean = sum(x, |x| x) / width as f32;
                let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f32;
                let factor = 1.0 / (variance + eps).sqrt();
                let weights = weight.iter().zip(bias);
                y.iter_mut().zip(x).zip(weights).for_each(|((y, x), (weight, bias))| {
                    *y = (x - mean) * factor * weight + bias;
                });
            },
        ));
    });
}

/// Sums `f` over all numbers.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<PARTS>();
    let mut sums = [0.0; PARTS];
    for chunk in chunks {
        (0..PARTS).for_each(|i| sums[i] += f(chunk[i]));
    }
    sums.into_iter().sum::<f32>() + rest.iter().map(|x| f(*x)).sum::<f32>()
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
}
