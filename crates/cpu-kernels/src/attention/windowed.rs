//! Windowed attention: full attention inside windows of rows, as the encoders use it.
#![allow(unsafe_code)] // Tasks write disjoint columns of the same rows: see `buffer`.

use std::cell::RefCell;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::softmax::softmax;
use super::window_head::{Head, Scratch};
#[cfg(target_arch = "x86_64")]
use super::windowed_bf16;
use crate::buffer::{DisjointCols, aligned, size, total};
use crate::gemm::Precision;
use crate::gemm::{Microkernel, VECTORS, transpose};
use crate::simd::Processor;

/// Keys whose values one pass of the micro-kernel adds up.
const DEPTH: usize = 192;

/// Sizes of [`window_attention`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Number of heads.
    pub heads: usize,
    /// Width of a head.
    pub width: usize,
    /// Numbers from one row of queries, keys or values to the next.
    pub stride: usize,
}

impl AttentionShape {
    /// The shape of rows that are contiguous: the stride is `heads * width`.
    ///
    /// # Panics
    /// If the stride overflows.
    pub fn dense(heads: usize, width: usize) -> Self {
        Self { heads, width, stride: size([heads, width]) }
    }
}

/// Computes `softmax(q kᵀ / √width) v` for each head, within windows of rows and not across them.
///
/// # Shapes
/// `q`, `k`, `v` `[rows, heads, width]`, whose rows begin `stride` numbers apart; `windows` are lengths that add up to the rows.
/// `y` `[rows, heads, width]`, contiguous.
///
/// # Panics
/// If the lengths do not agree.
pub fn window_attention(
    [q, k, v]: [&[f32]; 3],
    windows: &[usize],
    shape: AttentionShape,
    precision: Precision,
    y: &mut [f32],
) {
    window_attention_on(Processor::best(), [q, k, v], windows, shape, precision, y);
}

fn window_attention_on(
    processor: Processor,
    [q, k, v]: [&[f32]; 3],
    windows: &[usize],
    shape: AttentionShape,
    precision: Precision,
    y: &mut [f32],
) {
    let AttentionShape { heads, width, stride } = shape;
    let (rows, of_row) = (total(windows.iter().copied()), size([heads, width]));
    let length = if rows == 0 { 0 } else { total([size([rows - 1, stride]), of_row]) };
    assert!(stride >= of_row && [q, k, v].iter().all(|x| x.len() >= length), "q, k, v [rows, heads, width]");
    assert_eq!(y.len(), size([rows, of_row]), "y [rows, heads, width], windows add up to the rows");
    if y.is_empty() {
        return;
    }
    let tasks: Vec<(usize, usize, usize)> = windows
        .iter()
        .scan(0, |end, length| {
            *end += length;
            Some((*end - length, *length))
        })
        .flat_map(|(start, length)| (0..heads).map(move |head| (start, length, head)))
        .filter(|(_, length, _)| *length > 0)
        .collect();
    #[cfg(target_arch = "x86_64")]
    let instructions = processor.bf16.filter(|_| precision == Precision::Bf16);
    let _ = precision;
    let columns = DisjointCols::new(y, heads * width);
    tasks.into_par_iter().for_each(|(start, length, head)| {
        let from = start * stride + head * width;
        let [q, k, v] = [q, k, v].map(|x| &x[from..(start + length - 1) * stride + (head + 1) * width]);
        let mut memory = MEMORY.take();
        let task = Head { q, k, v, stride, length, width, y: &columns, row: start, column: head * width };
        #[cfg(target_arch = "x86_64")]
        match instructions {
            // SAFETY: all features that the bf16 kernels are compiled with were found, or there would be no
            // `Bf16Instructions`.
            Some(instructions) => unsafe { windowed_bf16::run(instructions, task, &mut memory) },
            None => processor.arch.dispatch(WithMemory { task, memory: &mut memory }),
        }
        #[cfg(not(target_arch = "x86_64"))]
        processor.arch.dispatch(WithMemory { task, memory: &mut memory });
        MEMORY.set(memory);
    });
}

thread_local! {
    static MEMORY: RefCell<Scratch> = RefCell::default();
}

struct WithMemory<'a> {
    task: Head<'a>,
    memory: &'a mut Scratch,
}

impl WithSimd for WithMemory<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { task, memory } = self;
        if S::REGISTER_COUNT >= 32 { task.run::<S, 8>(simd, memory) } else { task.run::<S, 4>(simd, memory) }
    }
}

impl Head<'_> {
    #[inline(always)]
    fn run<S: Simd, const HEIGHT: usize>(self, simd: S, memory: &mut Scratch) {
        let Self { q, k, v, stride, length, width, y, row, column } = self;
        let tile = VECTORS * S::F32_LANES;
        let (key_panels, value_panels) = (length.div_ceil(tile), width.div_ceil(tile));
        let keys = aligned(&mut memory.keys, key_panels * tile * width);
        for (panel, copy) in keys.chunks_exact_mut(tile * width).enumerate() {
            let first = panel * tile;
            transpose(&k[first * stride..], stride, tile.min(length - first), copy, tile);
        }
        let values = aligned(&mut memory.values, value_panels * tile * length);
        for (panel, copy) in values.chunks_exact_mut(tile * length).enumerate() {
            let columns = panel * tile..(panel * tile + tile).min(width);
            for (key, copy) in copy.chunks_exact_mut(tile).enumerate() {
                copy.fill(0.0);
                copy[..columns.len()].copy_from_slice(&v[key * stride..][columns.clone()]);
            }
        }
        let queries = aligned(&mut memory.queries, HEIGHT * width);
        let scores = aligned(&mut memory.scores, HEIGHT * key_panels * tile);
        let shares = aligned(&mut memory.shares, HEIGHT * length);
        let sums = aligned(&mut memory.sums, HEIGHT * value_panels * tile);
        let initial = &[simd.splat_f32s(0.0); VECTORS];
        let scale = 1.0 / (width as f32).sqrt();
        for first in (0..length).step_by(HEIGHT) {
            let height = HEIGHT.min(length - first);
            for query in 0..height {
                let q = &q[(first + query) * stride..][..width];
                let (queries, _) = queries.as_chunks_mut::<HEIGHT>();
                queries.iter_mut().zip(q).for_each(|(queries, q)| queries[query] = q * scale);
            }
            let x = queries.as_chunks().0;
            let y_scores = &DisjointCols::new(scores, key_panels * tile);
            for (panel, keys) in keys.chunks_exact(tile * width).enumerate() {
                let weights = S::as_simd_f32s(keys).0.as_chunks::<VECTORS>().0;
                // SAFETY: the matrix was made here, for this alone, and a target is gone before the next.
                let y = unsafe { y_scores.target(0, panel * tile) };
                simd.vectorize(Microkernel::<S, HEIGHT, VECTORS> { simd, x, weights, initial, y, add: false });
            }
            let mut totals = [0.0; HEIGHT];
            for (query, scores) in scores.chunks_exact_mut(key_panels * tile).take(height).enumerate() {
                let scores = &mut scores[..length];
                (_, totals[query]) = softmax::<false>(scores, 1.0, f32::NEG_INFINITY);
                let (shares, _) = shares.as_chunks_mut::<HEIGHT>();
                shares.iter_mut().zip(scores).for_each(|(shares, score)| shares[query] = *score);
            }
            let y_sums = &DisjointCols::new(sums, value_panels * tile);
            for (panel, values) in values.chunks_exact(tile * length).enumerate() {
                for (block, values) in values.chunks(tile * DEPTH).enumerate() {
                    let weights = S::as_simd_f32s(values).0.as_chunks::<VECTORS>().0;
                    let x = &shares.as_chunks().0[block * DEPTH..][..weights.len()];
                    // SAFETY: as above.
                    let y = unsafe { y_sums.target(0, panel * tile) };
                    simd.vectorize(Microkernel::<S, HEIGHT, VECTORS> { simd, x, weights, initial, y, add: block > 0 });
                }
            }
            for (query, sums) in sums.chunks_exact(value_panels * tile).take(height).enumerate() {
                // SAFETY: these rows and columns are this task's alone, and the piece is dropped before the next.
                let y = unsafe { y.piece(row + first + query, column..column + width) };
                let share = 1.0 / totals[query];
                y.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum * share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::tests::{cases, up_to};
    use proptest::prelude::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 252.0 - 2.0).collect()
    }

    /// Largest error against attention in f64. Queries, keys and values lie beside one another in the same rows.
    fn error(processor: Processor, windows: &[usize], [heads, width]: [usize; 2], precision: Precision) -> f64 {
        let rows: usize = windows.iter().sum();
        let [q, k, v] = [1, 2, 3].map(|seed| numbers(rows * heads * width, seed));
        let of_row = |x: &[f32], row: usize| x[row * heads * width..][..heads * width].to_vec();
        let qkv: Vec<f32> = (0..rows).flat_map(|row| [&q, &k, &v].map(|x| of_row(x, row)).concat()).collect();
        let shape = AttentionShape { heads, width, stride: 3 * heads * width };
        let mut y = vec![0.0; rows * heads * width];
        let from = |place: usize| &qkv[(place * heads * width).min(qkv.len())..];
        window_attention_on(processor, [from(0), from(1), from(2)], windows, shape, precision, &mut y);
        let at = |x: &[f32], row: usize, head: usize, i: usize| f64::from(x[(row * heads + head) * width + i]);
        let (mut worst, mut start) = (0.0_f64, 0);
        for length in windows {
            for (query, head) in (start..start + length).flat_map(|query| (0..heads).map(move |head| (query, head))) {
                let score = |key| (0..width).map(|i| at(&q, query, head, i) * at(&k, key, head, i)).sum::<f64>();
                let shares: Vec<f64> =
                    (start..start + length).map(|key| (score(key) / (width as f64).sqrt()).exp()).collect();
                let total: f64 = shares.iter().sum();
                for i in 0..width {
                    let sum: f64 = shares.iter().zip(start..).map(|(share, key)| share * at(&v, key, head, i)).sum();
                    worst = worst.max((sum / total - at(&y, query, head, i)).abs());
                }
            }
            start += length;
        }
        worst
    }

    proptest! {
        #![proptest_config(cases(128))]
        #[test]
        fn any_windows_are_right(
            windows in prop::collection::vec(0..up_to(70), 0..4), heads in 1..4usize, width in 0..up_to(80),
        ) {
            for processor in Processor::all() {
                let worst = error(processor, &windows, [heads, width], Precision::F32);
                prop_assert!(worst < 1e-4, "{processor:?}: {worst}");
                // Queries, keys, softmax weights and values are rounded to 8 bits; values lie within 2.
                let worst = error(processor, &windows, [heads, width], Precision::Bf16);
                prop_assert!(worst < 0.04, "{processor:?}: {worst}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hours")]
    fn a_long_window_is_right() {
        for processor in Processor::all() {
            assert!(error(processor, &[2 * DEPTH + 3], [1, 72], Precision::F32) < 1e-4, "{processor:?}");
            assert!(error(processor, &[2 * DEPTH + 3], [1, 72], Precision::Bf16) < 0.02, "{processor:?}");
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let (q, v) = (vec![1e3; 20 * 4], vec![1.0; 20 * 4]);
        for processor in Processor::all() {
            for (precision, allowed) in [(Precision::F32, 1e-5), (Precision::Bf16, 4e-3)] {
                let (mut y, shape) = (vec![0.0; 20 * 4], AttentionShape::dense(1, 4));
                window_attention_on(processor, [&q, &q, &v], &[20], shape, precision, &mut y);
                assert!(y.iter().all(|y| (y - 1.0).abs() < allowed), "{processor:?}, {precision:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "add up to too large a size")]
    fn windows_whose_sum_wraps_are_a_bug() {
        let x = [0.0; 8];
        let shape = AttentionShape::dense(1, 8);
        window_attention([&x; 3], &[usize::MAX, 2], shape, Precision::F32, &mut [0.0; 8]);
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn a_stride_that_wraps_is_a_bug() {
        let (x, shape) = ([0.0; 16], AttentionShape { heads: 1, width: 8, stride: usize::MAX / 2 + 1 });
        window_attention([&x; 3], &[3], shape, Precision::F32, &mut [0.0; 24]);
    }
}
