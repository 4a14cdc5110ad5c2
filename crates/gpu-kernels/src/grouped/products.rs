//! The products of a tile: the pairs of one expert and some of its outputs.

use cubecl::prelude::*;

use super::sort::TILE_NUMBERS;
use crate::gate::kernel::silu;
use crate::packed::tiles::{Form, stage_packed};
use crate::tiles::{Tile, clear, left_row, multiply, right_row, stage_left, stage_right};

/// Outputs of a tile.
pub(super) const COLUMNS: usize = 64;

/// Sizes of the products, known to the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sizes {
    pub top_k: usize,
    /// Outputs of an expert.
    pub outputs: usize,
    /// Loads of one row of the matrix.
    pub loads: usize,
    pub tile: Tile,
    pub form: Form,
}

/// Brings a step of the rows of a matrix from `first` on into shared memory, however they are stored.
#[cube]
fn stage_matrix<F: Float, N: Size>(
    matrix: &[Vector<F, N>],
    words: &[u32],
    scales: &[F],
    zeros: &[F],
    first: usize,
    last: usize,
    shared: &mut Shared<[Vector<f32, N>]>,
    step: usize,
    #[comptime] sizes: Sizes,
) {
    if comptime!(sizes.form.bits == 0) {
        let (start, stride) = (first * sizes.loads, sizes.loads);
        stage_right::<F, N>(matrix, start, stride, last, shared, step, sizes.loads, sizes.tile);
    } else {
        stage_packed::<F, N>(words, scales, zeros, first, last, shared, step, sizes.tile, sizes.form);
    }
}

/// `silu(gate · x) * (up · x)` of a tile: the pairs of one expert and some of its inner numbers. Pairs stay sorted by expert.
#[cube(launch)]
pub(super) fn gate_up<F: Float, N: Size>(
    x: &[Vector<F, N>],
    matrix: &[Vector<F, N>],
    words: &[u32],
    scales: &[F],
    zeros: &[F],
    order: &[i32],
    tiles: &[i32],
    out: &mut [f32],
    #[comptime] sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let (unit, slot) = (UNIT_POS as usize, CUBE_POS_Y as usize * comptime!(TILE_NUMBERS));
    let mut pairs = Shared::<[i32]>::new_slice(1usize);
    if unit == 0 {
        pairs[0] = tiles[slot + 2];
    }
    // All units come to the same decision, and WGSL must be able to see it.
    let count = workgroup_uniform_load(&pairs[0]) as usize;
    if count > 0 {
        let (expert, start) = (tiles[slot] as usize, tiles[slot + 1] as usize);
        let mut starts = Shared::<[u32]>::new_slice(comptime!(sizes.tile.rows[0]));
        if unit < comptime!(sizes.tile.rows[0]) {
            let pair = order[start + select(unit < count, unit, count - 1)] as usize;
            starts[unit] = (pair / sizes.top_k * sizes.loads) as u32;
        }
        let column = CUBE_POS_X as usize * comptime!(COLUMNS);
        let first = expert * comptime!(2 * sizes.outputs) + column;
        let last = comptime!(sizes.outputs - 1) - column;
        let mut left = Shared::<[Vector<f32, N>]>::new_slice(comptime!(sizes.tile.shared(0)));
        let mut gates = Shared::<[Vector<f32, N>]>::new_slice(comptime!(sizes.tile.shared(1)));
        let mut ups = Shared::<[Vector<f32, N>]>::new_slice(comptime!(sizes.tile.shared(1)));
        let mut gate = Array::<Vector<f32, N>>::new(comptime!(sizes.tile.products()));
        let mut up = Array::<Vector<f32, N>>::new(comptime!(sizes.tile.products()));
        clear::<N>(&mut gate, comptime!(sizes.tile.products()));
        clear::<N>(&mut up, comptime!(sizes.tile.products()));
        for step in 0..comptime!(sizes.tile.steps(sizes.loads)) {
            sync_cube();
            stage_left::<F, N>(x, &starts, &mut left, step, sizes.loads, sizes.tile);
            stage_matrix::<F, N>(matrix, words, scales, zeros, first, last, &mut gates, step, sizes);
            let first = first + sizes.outputs;
            stage_matrix::<F, N>(matrix, words, scales, zeros, first, last, &mut ups, step, sizes);
            sync_cube();
            multiply::<N>(&left, &gates, &mut gate, sizes.tile);
            multiply::<N>(&left, &ups, &mut up, sizes.tile);
        }
        #[unroll]
        for i in 0..comptime!(sizes.tile.of_unit[0]) {
            #[unroll]
            for j in 0..comptime!(sizes.tile.of_unit[1]) {
                let (row, output) = (left_row(i, sizes.tile), right_row(j, sizes.tile));
                let product = comptime!(i * sizes.tile.of_unit[1] + j);
                if row < count && output <= last {
                    let gate = Vector::<f32, Const<1>>::new(Vector::vector_sum(gate[product]));
                    let gate = Vector::vector_sum(silu::<Const<1>>(gate));
                    let at = (start + row) * sizes.outputs + column + output;
                    out[at] = gate * Vector::vector_sum(up[product]);
                }
            }
        }
    }
}

/// `down · hidden` of a tile, written to the places of its pairs.
#[cube(launch)]
pub(super) fn down<F: Float, N: Size>(
    hidden: &[Vector<f32, N>],
    matrix: &[Vector<F, N>],
    words: &[u32],
    scales: &[F],
    zeros: &[F],
    order: &[i32],
    tiles: &[i32],
    out: &mut [f32],
    #[comptime] sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let (unit, slot) = (UNIT_POS as usize, CUBE_POS_Y as usize * comptime!(TILE_NUMBERS));
    let mut pairs = Shared::<[i32]>::new_slice(1usize);
    if unit == 0 {
        pairs[0] = tiles[slot + 2];
    }
    let count = workgroup_uniform_load(&pairs[0]) as usize;
    if count > 0 {
        let (expert, start) = (tiles[slot] as usize, tiles[slot + 1] as usize);
        let mut starts = Shared::<[u32]>::new_slice(comptime!(sizes.tile.rows[0]));
        if unit < comptime!(sizes.tile.rows[0]) {
            starts[unit] = ((start + select(unit < count, unit, count - 1)) * sizes.loads) as u32;
        }
        let column = CUBE_POS_X as usize * comptime!(COLUMNS);
        let (first, last) = (expert * sizes.outputs + column, comptime!(sizes.outputs - 1) - column);
        let mut left = Shared::<[Vector<f32, N>]>::new_slice(comptime!(sizes.tile.shared(0)));
        let mut right = Shared::<[Vector<f32, N>]>::new_slice(comptime!(sizes.tile.shared(1)));
        let mut sums = Array::<Vector<f32, N>>::new(comptime!(sizes.tile.products()));
        clear::<N>(&mut sums, comptime!(sizes.tile.products()));
        for step in 0..comptime!(sizes.tile.steps(sizes.loads)) {
            sync_cube();
            stage_left::<f32, N>(hidden, &starts, &mut left, step, sizes.loads, sizes.tile);
            stage_matrix::<F, N>(matrix, words, scales, zeros, first, last, &mut right, step, sizes);
            sync_cube();
            multiply::<N>(&left, &right, &mut sums, sizes.tile);
        }
        #[unroll]
        for i in 0..comptime!(sizes.tile.of_unit[0]) {
            #[unroll]
            for j in 0..comptime!(sizes.tile.of_unit[1]) {
                let (row, output) = (left_row(i, sizes.tile), right_row(j, sizes.tile));
                let product = comptime!(i * sizes.tile.of_unit[1] + j);
                if row < count && output <= last {
                    let at = order[start + row] as usize * sizes.outputs + column + output;
                    out[at] = Vector::vector_sum(sums[product]);
                }
            }
        }
    }
}

/// `residual + Σ weight · output` over the experts of a row, the best first.
#[cube(launch)]
pub(super) fn combined<F: Float, N: Size>(
    outputs: &[Vector<f32, N>],
    weights: &[F],
    residual: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    total: usize,
    #[comptime] top_k: usize,
    #[comptime] loads: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < total {
        let (row, i) = (ABSOLUTE_POS / loads, ABSOLUTE_POS % loads);
        let mut sum = Vector::<f32, N>::zero();
        #[unroll]
        for rank in 0..top_k {
            let pair = row * top_k + rank;
            sum += outputs[pair * loads + i] * Vector::<f32, N>::new(f32::cast_from(weights[pair]));
        }
        out[ABSOLUTE_POS] = Vector::<F, N>::cast_from(Vector::<f32, N>::cast_from(residual[ABSOLUTE_POS]) + sum);
    }
}
