//! Layers of a decoder with their gradients, for training in f32: each walks its values once forwards and once backwards.

use pulp::Arch;
use rayon::prelude::*;

use crate::activation::{normal, sigmoid};
use crate::attention::softmax;
use crate::norm::inverse_rms;
use crate::simd::{Processor, Vectorized};

/// Values that one task takes at a time, in whole rows.
const PIECE: usize = 1 << 14;
/// Values that sums and loops take at once, so that compilers vectorise them.
const LANES: usize = 16;

/// `silu(gate) * up`.
///
/// # Panics
/// If the lengths differ.
pub fn silu_gate(gate: &[f32], up: &[f32]) -> Vec<f32> {
    assert_eq!(gate.len(), up.len(), "gate, up");
    let mut y = vec![0.0; gate.len()];
    each(
        [gate, up],
        &mut y,
        #[inline(always)]
        |[gate, up]| gate * sigmoid(gate) * up,
    );
    y
}

/// Gradients of [`silu_gate`] with respect to `gate` and `up`.
///
/// # Panics
/// If the lengths differ.
pub fn silu_gate_backward(gate: &[f32], up: &[f32], gradient: &[f32]) -> [Vec<f32>; 2] {
    assert!(gate.len() == up.len() && gate.len() == gradient.len(), "gate, up, gradient");
    let [mut of_gate, mut of_up] = [vec![0.0; gate.len()], vec![0.0; gate.len()]];
    each(
        [gate, up, gradient],
        &mut of_gate,
        #[inline(always)]
        |[gate, up, gradient]| {
            let sigmoid = sigmoid(gate);
            gradient * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
        },
    );
    each(
        [gate, gradient],
        &mut of_up,
        #[inline(always)]
        |[gate, gradient]| gradient * gate * sigmoid(gate),
    );
    [of_gate, of_up]
}

/// Gradient of exact GELU.
///
/// # Panics
/// If the lengths differ.
pub fn gelu_backward(x: &[f32], gradient: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), gradient.len(), "x, gradient");
    let mut y = vec![0.0; x.len()];
    each(
        [x, gradient],
        &mut y,
        #[inline(always)]
        |[x, gradient]| {
            let (erf, bell) = normal::<false>(x);
            let integral = 0.5 + 0.5 * erf.copysign(x);
            gradient * (integral + x * FRAC_1_SQRT_TAU * bell)
        },
    );
    y
}

/// `1 / √(2π)`.
const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;

/// Softmax of rows of `width` scores after adding a bias: row `r` takes row `r % n` of the `n` rows of `bias`, which may be empty.
///
/// # Panics
/// If the scores or the bias are not whole rows.
pub fn softmax_rows(scores: &[f32], bias: &[f32], width: usize) -> Vec<f32> {
    assert!(width > 0 && scores.len().is_multiple_of(width) && bias.len().is_multiple_of(width), "rows of {width}");
    let (arch, mut y, biases) = (Processor::best().arch, scores.to_vec(), bias.len() / width);
    by_rows(&mut y, width).for_each(|(first, rows)| {
        arch.dispatch(Vectorized(
            #[inline(always)]
            || {
                for (index, row) in rows.chunks_exact_mut(width).enumerate() {
                    if biases > 0 {
                        let bias = &bias[(first + index) % biases * width..][..width];
                        row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
                    }
                    softmax_row(row);
                }
            },
        ));
    });
    y
}

/// Gradient of the scores of [`softmax_rows`], whose result is `y`.
///
/// # Panics
/// If the values are not whole rows.
pub fn softmax_rows_backward(y: &[f32], gradient: &[f32], width: usize) -> Vec<f32> {
    assert!(y.len() == gradient.len() && width > 0 && y.len().is_multiple_of(width), "rows of {width}");
    let (arch, mut x) = (Processor::best().arch, gradient.to_vec());
    by_rows(&mut x, width).for_each(|(first, rows)| {
        arch.dispatch(Vectorized(
            #[inline(always)]
            || {
                for (row, y) in rows.chunks_exact_mut(width).zip(y[first * width..].chunks_exact(width)) {
                    let mean = dot(row, y);
                    row.iter_mut().zip(y).for_each(|(x, y)| *x = (*x - mean) * y);
                }
            },
        ));
    });
    x
}

/// Log-probability of each row's label.
///
/// # Panics
/// If the logits are not whole rows, or a label is beyond a row.
pub fn label_log_probs(logits: &[f32], labels: &[u32], width: usize) -> Vec<f32> {
    assert!(width > 0 && logits.len() == labels.len() * width, "logits [labels, {width}]");
    let arch = Processor::best().arch;
    let rows = logits.par_chunks_exact(width).zip(labels).with_min_len(8);
    let log_prob = |(row, label): (&[f32], &u32)| {
        let mut exps = row.to_vec();
        let all = arch.dispatch(Vectorized(
            #[inline(always)]
            || log_sum(&mut exps),
        ));
        row[*label as usize] - all
    };
    rows.map(log_prob).collect()
}

/// Gradient of the logits of [`label_log_probs`].
///
/// # Panics
/// See [`label_log_probs`].
pub fn label_log_probs_backward(logits: &[f32], labels: &[u32], width: usize, gradient: &[f32]) -> Vec<f32> {
    assert!(width > 0 && logits.len() == labels.len() * width, "logits [labels, {width}]");
    assert_eq!(labels.len(), gradient.len(), "a gradient for each label");
    let (arch, mut x) = (Processor::best().arch, logits.to_vec());
    by_rows(&mut x, width).for_each(|(first, rows)| {
        let mut of_rows = rows.chunks_exact_mut(width).zip(labels[first..].iter().zip(&gradient[first..]));
        arch.dispatch(Vectorized(
            #[inline(always)]
            || {
                for (row, (label, gradient)) in of_rows.by_ref() {
                    softmax_row(row);
                    row.iter_mut().for_each(|x| *x *= -gradient);
                    row[*label as usize] += gradient;
                }
            },
        ));
    });
    x
}

/// RMSNorm of rows: `x / sqrt(mean(x²) + eps) * weight`.
///
/// # Panics
/// If `x` is not a whole number of rows.
pub fn rms_norm_rows(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    assert!(width > 0 && x.len().is_multiple_of(width), "x [rows, width], weight [width]");
    let (arch, mut y) = (Processor::best().arch, x.to_vec());
    by_rows(&mut y, width).for_each(|(_, rows)| {
        arch.dispatch(Vectorized(
            #[inline(always)]
            || {
                for row in rows.chunks_exact_mut(width) {
                    let factor = inverse_rms(row, eps);
                    row.iter_mut().zip(weight).for_each(|(x, weight)| *x *= factor * weight);
                }
            },
        ));
    });
    y
}

/// Gradients of [`rms_norm_rows`] with respect to `x` and `weight`.
///
/// # Panics
/// If the lengths do not agree.
pub fn rms_norm_rows_backward(x: &[f32], weight: &[f32], eps: f32, gradient: &[f32]) -> [Vec<f32>; 2] {
    let width = weight.len();
    assert!(width > 0 && x.len().is_multiple_of(width), "x [rows, width], weight [width]");
    assert_eq!(x.len(), gradient.len(), "x, gradient");
    let (arch, mut of_x) = (Processor::best().arch, gradient.to_vec());
    let pieces = by_rows(&mut of_x, width).map(|(first, rows)| {
        let mut of_weight = vec![0.0; width];
        arch.dispatch(Vectorized(
            #[inline(always)]
            || {
                for (row, x) in rows.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width)) {
                    let factor = inverse_rms(x, eps);
                    let sums = of_weight.iter_mut().zip(row.iter_mut().zip(x).zip(weight));
                    sums.for_each(|(of_weight, ((gradient, x), weight))| {
                        *of_weight += *gradient * x * factor;
                        *gradient *= weight;
                    });
                    let shared = dot(row, x) * factor * factor / width as f32;
                    row.iter_mut().zip(x).for_each(|(gradient, x)| *gradient = factor * (*gradient - shared * x));
                }
            },
        ));
        of_weight
    });
    // In the order of the rows, whoever computed them.
    let of_weight = pieces.collect::<Vec<_>>().into_iter().reduce(|mut sum, more| {
        sum.iter_mut().zip(more).for_each(|(sum, x)| *sum += x);
        sum
    });
    [of_x, of_weight.unwrap_or_else(|| vec![0.0; width])]
}

/// `x cos + rotate_half(x) sin` of the heads of each row, or the gradient of it with `BACKWARD`.
///
/// `cos` and `sin` are `[rows, width]`, the second half of a row repeating the first.
///
/// # Panics
/// If the lengths do not agree.
pub fn rotate_heads<const BACKWARD: bool>(x: &[f32], cos: &[f32], sin: &[f32], width: usize) -> Vec<f32> {
    assert!(width > 0 && width.is_multiple_of(2) && cos.len() == sin.len(), "cos, sin [rows, {width}]");
    let (rows, mut y) = (cos.len() / width, vec![0.0; x.len()]);
    let of_row = x.len() / rows.max(1);
    assert!(
        cos.len().is_multiple_of(width) && of_row.is_multiple_of(width) && of_row * rows == x.len(),
        "x [rows, heads, {width}]"
    );
    let (arch, sign) = (Processor::best().arch, if BACKWARD { -1.0 } else { 1.0 });
    let tables = cos.par_chunks_exact(width).zip(sin.par_chunks_exact(width));
    let values = y.par_chunks_exact_mut(of_row.max(1)).zip(x.par_chunks_exact(of_row.max(1)));
    values.zip(tables).with_min_len(16).for_each(|((y, x), (cos, sin))| {
        arch.dispatch(Vectorized(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let ((y1, y2), (x1, x2)) = (y.split_at_mut(width / 2), x.split_at(width / 2));
                    let both = y1.iter_mut().zip(y2).zip(x1.iter().zip(x2)).zip(cos.iter().zip(sin));
                    for (((y1, y2), (x1, x2)), (cos, sin)) in both {
                        (*y1, *y2) = (x1 * cos - sign * x2 * sin, x2 * cos + sign * x1 * sin);
                    }
                }
            },
        ));
    });
    y
}

/// Pieces of whole rows, each with the number of its first row.
fn by_rows(values: &mut [f32], width: usize) -> impl IndexedParallelIterator<Item = (usize, &mut [f32])> {
    let rows = (PIECE / width).max(1);
    values.par_chunks_mut(rows * width).enumerate().map(move |(piece, values)| (piece * rows, values))
}

/// Sets each value to a function of those of `inputs` at its place.
fn each<const N: usize>(inputs: [&[f32]; N], y: &mut [f32], f: impl Fn([f32; N]) -> f32 + Copy + Sync) {
    let arch: Arch = Processor::best().arch;
    y.par_chunks_mut(PIECE).enumerate().for_each(|(piece, y)| {
        let inputs = inputs.map(|input| &input[piece * PIECE..][..y.len()]);
        arch.dispatch(Vectorized(
            #[inline(always)]
            || {
                // Arrays of a fixed length, whose places need no checks: compilers vectorise these.
                let (pieces, rest) = y.as_chunks_mut::<LANES>();
                let inputs = inputs.map(|input| input.as_chunks::<LANES>());
                for (at, y) in pieces.iter_mut().enumerate() {
                    let inputs = inputs.map(|(pieces, _)| pieces[at]);
                    for lane in 0..LANES {
                        y[lane] = f(std::array::from_fn(|index| inputs[index][lane]));
                    }
                }
                for (at, y) in rest.iter_mut().enumerate() {
                    *y = f(inputs.map(|(_, rest)| rest[at]));
                }
            },
        ));
    });
}

/// Softmax of one row, in place.
#[inline(always)]
fn softmax_row(row: &mut [f32]) {
    let (_, sum) = softmax::<false>(row, 1.0, f32::NEG_INFINITY);
    let factor = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= factor);
}

/// `ln Σ e^x`; the row is used up.
#[inline(always)]
fn log_sum(row: &mut [f32]) -> f32 {
    let (greatest, sum) = softmax::<false>(row, 1.0, f32::NEG_INFINITY);
    greatest + sum.ln()
}

#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let ((xs, rest), (ys, others)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    xs.iter().zip(ys).for_each(|(x, y)| sums.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (x, y))| *sum += x * y));
    sums.iter().sum::<f32>() + rest.iter().zip(others).map(|(x, y)| x * y).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;

    /// Compares a gradient with the slopes of `Σ f(x) · g`, taken over both sides of each value.
    fn assert_slopes(x: &[f32], f: impl Fn(&[f32]) -> Vec<f32>, g: &[f32], found: &[f32]) {
        let sum = |x: &[f32]| f(x).iter().zip(g).map(|(y, g)| f64::from(y * g)).sum::<f64>();
        assert_eq!(x.len(), found.len());
        for at in 0..x.len() {
            let (mut more, mut less) = (x.to_vec(), x.to_vec());
            (more[at], less[at]) = (x[at] + 1e-2, x[at] - 1e-2);
            let expected = (sum(&more) - sum(&less)) / f64::from(more[at] - less[at]);
            let error = (f64::from(found[at]) - expected).abs();
            assert!(error < 2e-3, "{at}: {} instead of {expected}", found[at]);
        }
    }

    #[test]
    fn silu_gate_and_gelu() {
        let (gate, up, g) = (numbers(40, 1), numbers(40, 2), numbers(40, 3));
        let [of_gate, of_up] = silu_gate_backward(&gate, &up, &g);
        assert_slopes(&gate, |gate| silu_gate(gate, &up), &g, &of_gate);
        assert_slopes(&up, |up| silu_gate(&gate, up), &g, &of_up);
        let gelu = |x: &[f32]| {
            let mut x = x.to_vec();
            crate::gelu(&mut x);
            x
        };
        let x: Vec<f32> = gate.iter().copied().chain([0.0, 5e-4, -5e-4, 9.0, -9.0]).collect();
        let g = numbers(x.len(), 4);
        assert_slopes(&x, gelu, &g, &gelu_backward(&x, &g));
    }

    #[test]
    fn softmax_adds_the_bias_of_its_row() {
        let (width, scores, g) = (19, numbers(19 * 6, 1), numbers(19 * 6, 2));
        let bias: Vec<f32> = (0..2 * width).map(|i| if i % 5 == 1 { -1e30 } else { i as f32 / 40.0 }).collect();
        let y = softmax_rows(&scores, &bias, width);
        for (row, (y, x)) in y.chunks(width).zip(scores.chunks(width)).enumerate() {
            let exps = x.iter().zip(&bias[row % 2 * width..]).map(|(x, bias)| f64::from(x + bias).exp());
            let exps: Vec<f64> = exps.collect();
            let all: f64 = exps.iter().sum();
            assert!(y.iter().zip(exps).all(|(y, e)| (f64::from(*y) - e / all).abs() < 1e-6));
        }
        let found = softmax_rows_backward(&y, &g, width);
        assert_slopes(&scores, |scores| softmax_rows(scores, &bias, width), &g, &found);
        assert_eq!(softmax_rows(&scores, &[], width), softmax_rows(&scores, &vec![0.0; width], width));
    }

    #[test]
    fn log_probabilities_of_labels() {
        let (width, labels) = (21, [3u32, 0, 20, 7]);
        let (logits, g) = (numbers(width * labels.len(), 1), numbers(labels.len(), 2));
        let found = label_log_probs(&logits, &labels, width);
        for ((row, label), found) in logits.chunks(width).zip(labels).zip(&found) {
            let all: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            let expected = f64::from(row[label as usize]) - all.ln();
            assert!((f64::from(*found) - expected).abs() < 1e-5);
        }
        let found = label_log_probs_backward(&logits, &labels, width, &g);
        assert_slopes(&logits, |logits| label_log_probs(logits, &labels, width), &g, &found);
    }

    #[test]
    fn rms_norm_of_several_pieces() {
        let (width, eps) = (37, 1e-3);
        let (weight, x, g) = (numbers(width, 1), numbers(width * 3, 2), numbers(width * 3, 3));
        let [of_x, of_weight] = rms_norm_rows_backward(&x, &weight, eps, &g);
        assert_slopes(&x, |x| rms_norm_rows(x, &weight, eps), &g, &of_x);
        assert_slopes(&weight, |weight| rms_norm_rows(&x, weight, eps), &g, &of_weight);
        let mut expected = vec![0.0; width];
        crate::rms_norm(&x[..width], &weight, eps, &mut expected);
        assert!(rms_norm_rows(&x, &weight, eps)[..width].iter().zip(&expected).all(|(x, y)| (x - y).abs() < 1e-5));
        // More rows than one task takes: the gradient of the weight is that of all.
        let rows = 2 * PIECE / width + 5;
        let (x, g) = (x[..width].repeat(rows), g[..width].repeat(rows));
        let [_, whole] = rms_norm_rows_backward(&x, &weight, eps, &g);
        let [_, one] = rms_norm_rows_backward(&x[..width], &weight, eps, &g[..width]);
        assert!(whole.iter().zip(one).all(|(whole, one)| (whole / rows as f32 - one).abs() < 1e-4));
    }

    #[test]
    fn rotation_of_heads() {
        let (rows, heads, width) = (3, 2, 6);
        let tables = |seed| {
            let halves = numbers(rows * width / 2, seed);
            halves.chunks(width / 2).flat_map(|half| [half, half].concat()).collect::<Vec<f32>>()
        };
        let (cos, sin) = (tables(1), tables(2));
        let (x, g) = (numbers(rows * heads * width, 3), numbers(rows * heads * width, 4));
        let found = rotate_heads::<true>(&g, &cos, &sin, width);
        assert_slopes(&x, |x| rotate_heads::<false>(x, &cos, &sin, width), &g, &found);
        let y = rotate_heads::<false>(&x, &cos, &sin, width);
        assert_eq!(y[0], x[0] * cos[0] - x[3] * sin[0]);
        assert_eq!(y[3], x[3] * cos[3] + x[0] * sin[3]);
    }
}
