//! Blocked GEMM with bf16 operands and f32 sums.
#![allow(unsafe_code)] // Raw bf16 operands, and tasks that write disjoint columns of the same rows: see `buffer`.

use std::cell::RefCell;

use rayon::prelude::*;

use super::bf16_block::block;
use super::bf16_layout::{Ahead, Block, PairColumns, Shift, WeightRows};
use super::bf16_operand::{round_pairs, transpose_square, with_rows};
use super::pairs::{SIDE, TILE};
use super::shape::Epilogue;
use super::tiles::Tiles;
use super::weight::{Matrix, Weight};
use crate::activation::{by_tanh, exact};
use crate::buffer::{DisjointCols, LINE, aligned, size};
use crate::simd::Bf16Instructions;

/// Bytes of activations that one pass over the weights works with: they stay in the L2 cache.
const KEPT: usize = 1280 << 10;
/// Pairs of inputs in one such pass, where weights are read in place; longer sums are continued by the next pass.
const DEPTH: usize = 640;

/// Blocks of 32 rows from which on weights are copied rather than read across cache lines.
const COPIED: usize = 6;

/// Packed activations: blocks of 16 rows, each as pairs `[depth, 16]`.
pub(crate) struct Pairs<'a> {
    values: &'a [f32],
    rows: usize,
    /// Pairs of a row, a multiple of 16.
    depth: usize,
}

impl<'a> Pairs<'a> {
    /// Rounds the rows `row(0)`, `row(1)`, … of `input` numbers to bf16 and packs them into `memory`.
    pub(crate) fn new<'x>(
        _: Bf16Instructions,
        row: impl Fn(usize) -> &'x [f32] + Sync,
        rows: usize,
        input: usize,
        memory: &'a mut Vec<f32>,
    ) -> Self {
        let depth = input.div_ceil(2 * TILE) * TILE;
        let blocks = rows.next_multiple_of(SIDE) / TILE;
        let values = aligned(memory, blocks * depth * TILE);
        values.par_chunks_mut(depth * TILE).enumerate().for_each(|(block, values)| {
            let count = rows.saturating_sub(block * TILE).min(TILE);
            let mut pairs = PAIRS.take();
            // SAFETY: all features that the bf16 kernels are compiled with were found, or there would be no
            // `Bf16Instructions`.
            unsafe { block_of_pairs(|at| row(block * TILE + at), count, depth, &mut pairs, values) };
            PAIRS.set(pairs);
        });
        Self { values, rows, depth }
    }
}

/// Packs up to 16 rows as pairs `[depth, 16]`; missing rows are zero.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn block_of_pairs<'x>(
    row: impl Fn(usize) -> &'x [f32],
    count: usize,
    depth: usize,
    memory: &mut Vec<f32>,
    values: &mut [f32],
) {
    let pairs = aligned(memory, TILE * depth);
    for (at, pairs) in pairs.chunks_exact_mut(depth).enumerate() {
        if at < count { round_pairs(row(at), pairs) } else { pairs.fill(0.0) }
    }
    for (at, square) in values.as_chunks_mut::<{ TILE * TILE }>().0.iter_mut().enumerate() {
        transpose_square(&pairs[at * TILE..], depth, square);
    }
}

thread_local! {
    static PAIRS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static INPUTS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Sums of 16 rows for 16 outputs.
type Square = [[f32; TILE]; TILE];

/// Whether a partial sum over the inputs is the first one, and whether it is the last.
#[derive(Clone, Copy)]
struct Part {
    first: bool,
    last: bool,
}

/// Calls `emit(first row, first output, sums, part)` for every 16 rows and 16 outputs of the given blocks of 32 outputs, with sums
/// over `depth` pairs of inputs at a time; rows and outputs beyond the last may be among them.
///
/// # Panics
/// If the activations have another width than the weight.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn blocks(
    instructions: Bf16Instructions,
    pairs: &Pairs,
    matrix: &Matrix,
    (blocks, depth): (std::ops::Range<usize>, usize),
    mut emit: impl FnMut(usize, usize, &mut Square, Part),
) {
    let shape = matrix.shape();
    assert!(pairs.depth == shape[1].div_ceil(2 * TILE) * TILE, "pairs of rows of {} inputs", shape[1]);
    assert!(depth > 0 && depth.is_multiple_of(TILE), "sums over {depth} pairs at a time");
    let tiles = Tiles::new(instructions);
    let mut results = Block([0.0; SIDE * SIDE]);
    let mut turned = [0.0; TILE * TILE];
    let row_blocks = pairs.rows.div_ceil(SIDE);
    // Passes of about the same size.
    let passes = row_blocks.div_ceil((KEPT / (depth * 4 * SIDE)).max(1));
    let at_once = row_blocks.div_ceil(passes.max(1)).max(1);
    for first in (0..row_blocks).step_by(at_once) {
        let row_blocks = first..row_blocks.min(first + at_once);
        for start in (0..pairs.depth).step_by(depth) {
            let depth = depth.min(pairs.depth - start);
            let part = Part { first: start == 0, last: start + depth == pairs.depth };
            for output in blocks.clone().map(|block| block * SIDE) {
                // Where rows begin in the middle of cache lines, each tile would be read from twice as many.
                let copied = |rows: WeightRows| {
                    let aligned = rows.at.addr().is_multiple_of(LINE) && (2 * rows.stride).is_multiple_of(LINE);
                    matches!(instructions, Bf16Instructions::Amx(_)) && !aligned && row_blocks.len() >= COPIED
                };
                with_rows(matrix, output, 2 * start..2 * (start + depth), copied, |rows| {
                    let steps = depth / TILE;
                    let mut ahead = rows.next;
                    // While these rows are multiplied, the next are prefetched, a cache line of some in each step.
                    if !ahead.at.is_null() && first == 0 {
                        ahead.rows = SIDE.div_ceil(row_blocks.len());
                    }
                    for (number, row) in row_blocks.clone().map(|block| block * SIDE).enumerate() {
                        let at = pairs.values[row * pairs.depth + start * TILE..][..SIDE * pairs.depth - start * TILE]
                            .as_ptr()
                            .cast();
                        let columns =
                            PairColumns { at, stride: TILE, second: pairs.depth * TILE, shifts: &[Shift::NONE], steps };
                        let at = ahead.at.wrapping_add(number * ahead.rows * ahead.stride);
                        let rows = WeightRows { next: Ahead { at, ..ahead }, ..rows };
                        // SAFETY: `with_rows` gives 32 rows of `depth` pairs, of which `steps * 16` are read: all. Two blocks of 16
                        // rows' pairs, from `start` on, were just taken.
                        unsafe { block(&tiles, rows, columns, &mut results) };
                        let squares =
                            (pairs.rows - row).min(SIDE).div_ceil(TILE) * (shape[0] - output).min(SIDE).div_ceil(TILE);
                        let columns = (shape[0] - output).min(SIDE).div_ceil(TILE);
                        for (down, across) in (0..squares).map(|at| (at / columns * TILE, at % columns * TILE)) {
                            transpose_square(&results.0[across * SIDE + down..], SIDE, &mut turned);
                            emit(
                                row + down,
                                output + across,
                                turned.as_chunks_mut().0.first_chunk_mut().expect("16 rows"),
                                part,
                            );
                        }
                    }
                });
            }
        }
    }
}

/// Computes a linear layer of rows `x` `[rows, input]` into `y` `[rows, output]`.
pub(crate) fn linear(
    instructions: Bf16Instructions,
    x: &[f32],
    matrix: &Matrix,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    y: &mut [f32],
) {
    let [output, input] = matrix.shape();
    let rows = x.len().checked_div(input).unwrap_or(0);
    assert!(rows > 0 && output > 0 && y.len() == size([rows, output]), "x [rows, input], y [rows, output]");
    let mut memory = INPUTS.take();
    let pairs = Pairs::new(instructions, |row| &x[row * input..][..input], rows, input, &mut memory);
    // Weights that must be converted take all inputs in one pass: splitting the sum would convert them again.
    let parts = if matches!(matrix.weight(), Weight::Bf16(_)) { pairs.depth.div_ceil(DEPTH) } else { 1 };
    let depth = pairs.depth.div_ceil(parts).next_multiple_of(TILE);
    let columns = DisjointCols::new(y, output);
    let all = output.div_ceil(SIDE);
    let tasks = all.min(8 * rayon::current_num_threads());
    (0..tasks).into_par_iter().for_each(|task| {
        let range = all * task / tasks..all * (task + 1) / tasks;
        let emit = |row, at, sums: &mut Square, part| {
            let count = TILE.min(output - at);
            // SAFETY: these columns are this task's alone, and the piece is dropped before the next.
            let piece = |row| unsafe { columns.piece(row, at..at + count) };
            finish(epilogue, part, bias.map(|bias| &bias[at..at + count]), row..rows, piece, sums);
        };
        // SAFETY: all features that the bf16 kernels are compiled with were found, or there would be no
        // `Bf16Instructions`.
        unsafe { blocks(instructions, &pairs, matrix, (range, depth), emit) };
    });
    INPUTS.set(memory);
}

/// Completes sums: adds the bias to the first part, what is already in `y` to later ones (and with [`Epilogue::Add`]), and
/// activates after the last. The rows `rows.start..` of the outputs are pieces, as wide as the bias.
#[inline(always)]
fn finish<'y>(
    epilogue: Epilogue,
    part: Part,
    bias: Option<&[f32]>,
    rows: std::ops::Range<usize>,
    piece: impl Fn(usize) -> &'y mut [f32],
    sums: &mut Square,
) {
    if let Some(bias) = bias.filter(|_| part.first) {
        let mut padded = [0.0; TILE];
        padded[..bias.len()].copy_from_slice(bias);
        sums.iter_mut().for_each(|sums| (0..TILE).for_each(|at| sums[at] += padded[at]));
    }
    if !part.first || epilogue == Epilogue::Add {
        for (row, sums) in rows.clone().zip(&mut *sums) {
            match piece(row).as_chunks::<TILE>() {
                // Of constant length, which compilers vectorise.
                ([y], _) => (0..TILE).for_each(|at| sums[at] += y[at]),
                (_, y) => sums.iter_mut().zip(y).for_each(|(sum, y)| *sum += y),
            }
        }
    }
    match epilogue {
        Epilogue::Gelu if part.last => sums.as_flattened_mut().iter_mut().for_each(|sum| *sum = exact::<true>(*sum)),
        Epilogue::GeluTanh if part.last => {
            sums.as_flattened_mut().iter_mut().for_each(|sum| *sum = by_tanh::<true>(*sum))
        }
        _ => {}
    }
    for (row, sums) in rows.zip(sums) {
        match piece(row).as_chunks_mut::<TILE>() {
            ([y], _) => *y = *sums,
            (_, y) => y.iter_mut().zip(sums).for_each(|(y, sum)| *y = *sum),
        }
    }
}

/// Computes `x Wᵀ` on this thread alone, for several weights of one width; without inputs, nothing is emitted.
///
/// # Panics
/// If a row is shorter than the weights' width.
pub(crate) fn linear_here<'a>(
    instructions: Bf16Instructions,
    row: impl Fn(usize) -> &'a [f32] + Sync,
    rows: usize,
    matrices: &[Matrix],
    mut emit: impl FnMut(usize, usize, usize, &[f32]),
) {
    let Some([_, input]) = matrices.first().map(Matrix::shape) else { return };
    if input == 0 {
        return;
    }
    let mut memory = INPUTS.take();
    let pairs = Pairs::new(instructions, row, rows, input, &mut memory);
    for (number, matrix) in matrices.iter().enumerate() {
        let [output, _] = matrix.shape();
        let all = (0..output.div_ceil(SIDE), pairs.depth);
        let emit = |row, at, sums: &mut Square, _| {
            let count = TILE.min(output - at);
            (row..rows).zip(sums).for_each(|(row, sums)| emit(number, row, at, &sums[..count]));
        };
        // SAFETY: as in `linear`.
        unsafe { blocks(instructions, &pairs, matrix, all, emit) };
    }
    INPUTS.set(memory);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;
    use crate::gemm::weight_tests::Sample;
    use crate::simd::Processor;
    use crate::simd::tests::cases;
    use crate::simd::{narrow, widen};
    use proptest::prelude::*;

    /// Largest error against the GEMM of the rounded operands in f64, relative to the size of the terms.
    fn error(instructions: Bf16Instructions, weight: Weight, rows: usize, [output, input]: [usize; 2]) -> f64 {
        let (x, bias) = (numbers(rows * input, 1), numbers(output, 7));
        let mut y = vec![0.0; rows * output];
        linear(instructions, &x, &Matrix::new(weight, [output, input]), Some(&bias), Epilogue::Keep, &mut y);
        let (mut worst, mut w) = (0.0_f64, vec![0.0; input]);
        let rounded = |x: f32| f64::from(widen(narrow(x)));
        for out in 0..output {
            weight.read(out, input, 0, &mut w);
            for row in 0..rows {
                let terms = x[row * input..][..input].iter().zip(&w).map(|(x, w)| rounded(*x) * rounded(*w));
                let size: f64 = terms.clone().map(f64::abs).sum::<f64>() + 1.0;
                let expected = terms.sum::<f64>() + f64::from(bias[out]);
                worst = worst.max((expected - f64::from(y[row * output + out])).abs() / size);
            }
        }
        worst
    }

    /// With many rows of inputs, weights that do not begin at a cache line are copied, the others read in place.
    #[test]
    fn weights_give_the_same_wherever_they_lie() {
        let (rows, [output, input]) = (COPIED * SIDE + 5, [70, 2 * DEPTH + 3 * SIDE]);
        let x = numbers(rows * input, 1);
        let half: Vec<u16> = numbers(output * input, 5).into_iter().map(narrow).collect();
        let mut memory = Vec::new();
        for (processor, instructions) in Processor::with_bf16() {
            let mut all = [0, 1, 5, SIDE].map(|skipped| {
                let weight = &mut aligned(&mut memory, skipped + half.len())[skipped..];
                weight.copy_from_slice(&half);
                let mut y = vec![0.0; rows * output];
                let matrix = Matrix::new(Weight::Bf16(weight), [output, input]);
                linear(instructions, &x, &matrix, None, Epilogue::Keep, &mut y);
                y
            });
            let first = std::mem::take(&mut all[0]);
            assert!(all[1..].iter().all(|y| *y == first), "{processor:?}");
        }
    }

    proptest! {
        #![proptest_config(cases(64))]
        #[test]
        fn any_shape_is_right(
            rows in 1..70usize, input in 1..300usize, output in 1..80usize, kind in 0..4usize,
            group in prop::sample::select(vec![16, 32, 64, 1000]), zeros: bool,
        ) {
            let wide = numbers(output * input, 5);
            let half: Vec<u16> = wide.iter().map(|w| narrow(*w)).collect();
            let sample = Sample::new(if kind == 2 { 4 } else { 8 }, group, [output, input], zeros, true);
            let weight = match kind {
                0 => Weight::F32(&wide),
                1 => Weight::Bf16(&half),
                _ => sample.weight(),
            };
            for (_, instructions) in Processor::with_bf16() {
                let error = error(instructions, weight, rows, [output, input]);
                prop_assert!(error < 1e-6, "{instructions:?}: {error}");
            }
        }
    }
}
