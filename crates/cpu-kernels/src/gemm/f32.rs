//! Blocked GEMM in f32.
//!
//! The scheme is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication": both operands are packed,
//! block by block, into the order in which the micro-kernel reads them, which keeps a tile of results in registers. The weight is
//! packed each time it is used, which costs a few percent for some dozens of rows and nothing to speak of for more, and leaves it
//! in memory as it is stored in the file.

#![allow(unsafe_code)] // Tasks write disjoint columns of the same rows: see `buffer`.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::microkernel::{Microkernel, VECTORS, transpose};
use super::weight::{Matrix, Weight};
use crate::buffer::{DisjointCols, aligned, prefetch};

/// Depth of a block: inputs of one pass of the micro-kernel, with which a tile's part of both operands stays in the L2 cache.
pub(super) const DEPTH: usize = 192;
/// Rows whose packed block (192 KiB at [`DEPTH`] inputs) one core reads again and again before it goes on.
pub(super) const ROWS: usize = 256;
/// Most panels (micro-kernel widths of outputs) of one task, which keeps a packed copy of their weights.
const PANELS: usize = 4;
/// Vectors of outputs in the narrow tile.
const NARROW: usize = 2;
/// Most elements of packed activations.
pub(super) const COPIED: usize = 4 << 20;

pub(super) struct Linear<'a> {
    pub(super) x: &'a [f32],
    pub(super) matrix: &'a Matrix<'a>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) y: &'a mut [f32],
    /// Whether to add to what is in `y`.
    pub(super) add: bool,
}

impl WithSimd for Linear<'_> {
    type Output = ();

    /// Chooses the micro-kernel's tile: its accumulators, one row of weights and one input fill the registers. A layer
    /// with few outputs uses the narrow tile if that saves more than a quarter of the products.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [output, _] = self.matrix.shape();
        let vectors = |width: usize| output.div_ceil(width * S::F32_LANES) * width;
        match (S::REGISTER_COUNT >= 32, vectors(NARROW) * 4 < vectors(VECTORS) * 3) {
            (true, false) => self.run::<S, 8, VECTORS>(simd),
            (true, true) => self.run::<S, 8, NARROW>(simd),
            (false, false) => self.run::<S, 4, VECTORS>(simd),
            (false, true) => self.run::<S, 4, NARROW>(simd),
        }
    }
}

thread_local! {
    /// Packed activations and packed weights: kept, since fresh memory costs as much time as filling it.
    static ROW_COPY: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static WEIGHT_COPY: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Linear<'_> {
    fn run<S: Simd, const HEIGHT: usize, const VECTORS: usize>(self, simd: S) {
        let Self { x, matrix, bias, y, add } = self;
        let ([output, input], weight) = (matrix.shape(), matrix.weight());
        let at_once = (COPIED / input).max(ROWS) / HEIGHT * HEIGHT;
        let width = VECTORS * S::F32_LANES;
        let panels = output.div_ceil(width);
        let tasks = panels.div_ceil(PANELS).max(panels.min(4 * rayon::current_num_threads()));
        // Taken out of its cell: while this thread waits for the others it may begin another GEMM.
        let mut copy = ROW_COPY.take();
        for (x, y) in x.chunks(at_once * input).zip(y.chunks_mut(at_once * output)) {
            let rows = Rows::<HEIGHT>::copy(x, input, &mut copy);
            // The tasks write disjoint columns.
            let y = DisjointCols::new(y, output);
            (0..tasks).into_par_iter().for_each(|task| {
                let panels = panels * task / tasks..panels * (task + 1) / tasks;
                let columns = panels.start * width..(panels.end * width).min(output);
                let mut copy = WEIGHT_COPY.take();
                let task = Task::<S, HEIGHT, VECTORS> {
                    simd,
                    rows: &rows,
                    weight,
                    bias,
                    columns,
                    y: &y,
                    add,
                    copy: &mut copy,
                };
                simd.vectorize(task);
                WEIGHT_COPY.set(copy);
            });
        }
        ROW_COPY.set(copy);
    }
}

/// Packed activations: in blocks of [`DEPTH`] inputs, each in groups of `HEIGHT` rows, each of those by input, as the
/// micro-kernel reads them. Rows that pad the last group are arbitrary.
struct Rows<'a, const HEIGHT: usize> {
    values: &'a [f32],
    rows: usize,
    input: usize,
}

impl<'a, const HEIGHT: usize> Rows<'a, HEIGHT> {
    fn copy(x: &[f32], input: usize, copy: &'a mut Vec<f32>) -> Self {
        let rows = x.len() / input;
        let padded = rows.next_multiple_of(HEIGHT);
        let values = aligned(copy, padded * input);
        values.par_chunks_mut(padded * DEPTH).enumerate().for_each(|(block, values)| {
            let depth = values.len() / padded;
            values.par_chunks_mut(HEIGHT * depth).enumerate().with_min_len(4).for_each(|(group, values)| {
                let (values, _) = values.as_chunks_mut::<HEIGHT>();
                let from = group * HEIGHT;
                for row in 0..HEIGHT.min(rows - from) {
                    let x = &x[(from + row) * input + block * DEPTH..][..depth];
                    values.iter_mut().zip(x).for_each(|(values, x)| values[row] = *x);
                }
            });
        });
        Self { values, rows, input }
    }

    /// The group of `HEIGHT` rows that begins at `row`, by input, in the block of inputs that begins at `start`.
    #[inline(always)]
    fn group(&self, row: usize, start: usize, depth: usize) -> &[[f32; HEIGHT]] {
        let padded = self.rows.next_multiple_of(HEIGHT);
        self.values[start * padded + row * depth..][..HEIGHT * depth].as_chunks().0
    }
}

/// The task of some columns of the output, for all rows.
struct Task<'a, S, const HEIGHT: usize, const VECTORS: usize> {
    simd: S,
    rows: &'a Rows<'a, HEIGHT>,
    weight: &'a Weight<'a>,
    bias: Option<&'a [f32]>,
    columns: Range<usize>,
    y: &'a DisjointCols<'a>,
    add: bool,
    copy: &'a mut Vec<f32>,
}

impl<S: Simd, const HEIGHT: usize, const VECTORS: usize> WithSimd for Task<'_, S, HEIGHT, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<T: Simd>(self, _: T) {
        let Self { simd, rows, weight, bias, columns, y, add, copy } = self;
        let (width, input) = (VECTORS * S::F32_LANES, rows.input);
        let panels = columns.len().div_ceil(width);
        let mut initial = vec![0.0; width];
        let mut partial = vec![0.0; HEIGHT * width];
        let mut wide = Vec::new();
        // Packed weights are kept for further rows only if there are any.
        let keeps = rows.rows > ROWS;
        let size = width * if keeps { panels * input } else { DEPTH.min(input) };
        let copy = aligned(copy, size);
        let (first, end) = (columns.start, columns.end);
        for first_row in (0..rows.rows).step_by(ROWS) {
            let end_row = (first_row + ROWS).min(rows.rows);
            for start in (0..input).step_by(DEPTH) {
                let depth = DEPTH.min(input - start);
                for panel in 0..panels {
                    let from = columns.start + panel * width;
                    let columns = from..(from + width).min(columns.end);
                    let at = if keeps { start * panels + panel * depth } else { 0 };
                    let copy = &mut copy[at * width..][..depth * width];
                    if first_row == 0 {
                        lay(weight, input, start, columns.clone(), copy, width, &mut wide);
                    }
                    match bias {
                        Some(bias) if start == 0 => initial[..columns.len()].copy_from_slice(&bias[columns.clone()]),
                        _ => initial.fill(0.0),
                    }
                    let weights = S::as_simd_f32s(copy).0.as_chunks::<VECTORS>().0;
                    let initial = &S::as_simd_f32s(&initial).0.as_chunks::<VECTORS>().0[0];
                    // While this panel is multiplied, the next one's weights are prefetched.
                    let next = if first_row > 0 {
                        0..0
                    } else if panel + 1 < panels {
                        columns.end..(columns.end + width).min(end)
                    } else {
                        first..(first + width).min(end)
                    };
                    let next_start = if panel + 1 < panels { start } else { start + DEPTH };
                    let next_end = (next_start + DEPTH).min(input);
                    let share = next.len().div_ceil((end_row - first_row).div_ceil(HEIGHT));
                    for row in (first_row..end_row).step_by(HEIGHT) {
                        let ahead = next.start + (row - first_row) / HEIGHT * share;
                        for row in ahead..(ahead + share).min(next.end) {
                            if let Weight::F32(weight) = weight
                                && next_start < next_end
                            {
                                prefetch(&weight[row * input + next_start..row * input + next_end]);
                            }
                        }
                        let x = rows.group(row, start, depth);
                        let add = add || start > 0;
                        if row + HEIGHT <= end_row && columns.len() == width {
                            // SAFETY: these columns are this task's alone, and no piece is alive.
                            let y = unsafe { y.target(row, from) };
                            simd.vectorize(Microkernel::<S, HEIGHT, VECTORS> { simd, x, weights, initial, y, add });
                            continue;
                        }
                        let tile = &DisjointCols::new(&mut partial, width);
                        // SAFETY: the matrix was made here, for this alone.
                        let tile = unsafe { tile.target(0, 0) };
                        simd.vectorize(Microkernel::<S, HEIGHT, VECTORS> {
                            simd,
                            x,
                            weights,
                            initial,
                            y: tile,
                            add: false,
                        });
                        for (row, sums) in (row..end_row).zip(partial.chunks_exact(width)) {
                            // SAFETY: these columns are this task's alone, and the piece is dropped before the next.
                            let y = unsafe { y.piece(row, columns.clone()) };
                            match add {
                                true => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
                                false => y.copy_from_slice(&sums[..y.len()]),
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Packs some inputs of some rows of the weight, by input.
#[inline(always)]
fn lay(
    weight: &Weight,
    input: usize,
    start: usize,
    rows: Range<usize>,
    copy: &mut [f32],
    width: usize,
    wide: &mut Vec<f32>,
) {
    if let Weight::F32(weight) = weight {
        return transpose(&weight[rows.start * input + start..], input, rows.len(), copy, width);
    }
    let depth = copy.len() / width;
    wide.resize(rows.len() * depth, 0.0);
    for (row, wide) in rows.clone().zip(wide.chunks_exact_mut(depth)) {
        weight.read(row, input, start, wide);
    }
    transpose(wide, depth, rows.len(), copy, width);
}
