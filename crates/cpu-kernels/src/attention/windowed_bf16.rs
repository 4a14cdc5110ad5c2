//! Windowed attention with bf16 operands in both GEMMs, and softmax in f32.
#![allow(unsafe_code)] // Raw bf16 operands, and tasks that write disjoint columns of the same rows: see `buffer`.

use super::softmax::softmax;
use super::window_head::{Head, Scratch};
use crate::buffer::aligned;
use crate::gemm::block_of_pairs;
use crate::gemm::join;
use crate::gemm::{Block, PairColumns, SIDE, Shift, TILE, Tiles, WeightRows, block, round_pairs};
use crate::simd::Bf16Instructions;

/// Computes one head of one window.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn run(instructions: Bf16Instructions, head: Head, memory: &mut Scratch) {
    let Head { q, k, v, stride, length, width, y, row, column } = head;
    assert!(length > 0 && width > 0, "a head of {width}, {length} rows");
    let (depth, keys) = (width.next_multiple_of(SIDE) / 2, length.next_multiple_of(SIDE));
    let columns = 2 * depth;
    let Scratch { keys: key_pairs, values, queries, scores, shares, sums } = memory;
    // Queries and softmax weights are rows of bf16 numbers; keys and values are pairs, along the width and along time.
    let queries = aligned(queries, keys * depth);
    for (at, queries) in queries.chunks_exact_mut(depth).enumerate() {
        if at < length { round_pairs(&q[at * stride..][..width], queries) } else { queries.fill(0.0) }
    }
    let key_pairs = aligned(key_pairs, keys * depth);
    for (number, pairs) in key_pairs.chunks_exact_mut(TILE * depth).enumerate() {
        let count = length.saturating_sub(number * TILE).min(TILE);
        block_of_pairs(|at| &k[(number * TILE + at) * stride..][..width], count, depth, sums, pairs);
    }
    let values = aligned(values, keys / 2 * columns);
    for (at, pairs) in values.chunks_exact_mut(columns).enumerate() {
        pairs.fill(0.0);
        let of_key = |key: usize| (key < length).then(|| &v[key * stride..][..width]);
        match (of_key(2 * at), of_key(2 * at + 1)) {
            (Some(a), Some(b)) => pairs.iter_mut().zip(a).zip(b).for_each(|((pair, a), b)| *pair = join(*a, *b)),
            (Some(a), None) => pairs.iter_mut().zip(a).for_each(|(pair, a)| *pair = join(*a, 0.0)),
            _ => {}
        }
    }
    let scores = aligned(scores, SIDE * keys);
    // A stride of a multiple of 4096 bytes would map all rows to the same set of the L1 cache.
    let share_stride = keys / 2 + TILE;
    let shares = aligned(shares, SIDE * share_stride);
    let scale = 1.0 / (width as f32).sqrt();
    let tiles = Tiles::new(instructions);
    let mut results = Block([0.0; SIDE * SIDE]);
    for first in (0..length).step_by(SIDE) {
        let height = SIDE.min(length - first);
        let rows = WeightRows::new(queries[first * depth..][..SIDE * depth].as_ptr().cast(), 2 * depth);
        for key in (0..keys).step_by(SIDE) {
            let at = key_pairs[key * depth..][..SIDE * depth].as_ptr().cast();
            let operand =
                PairColumns { at, stride: TILE, second: TILE * depth, shifts: &[Shift::NONE], steps: depth / TILE };
            // SAFETY: 32 rows of queries and 32 keys, each of `depth` pairs, were just taken.
            unsafe { block(&tiles, rows, operand, &mut results) };
            for (scores, results) in scores.chunks_exact_mut(keys).zip(results.0.as_chunks::<SIDE>().0).take(height) {
                scores[key..key + SIDE].copy_from_slice(results);
            }
        }
        let mut totals = [1.0; SIDE];
        for (at, scores) in scores.chunks_exact_mut(keys).take(height).enumerate() {
            (_, totals[at]) = softmax::<true>(&mut scores[..length], scale, f32::NEG_INFINITY);
            round_pairs(&scores[..length], &mut shares[at * share_stride..][..keys / 2]);
        }
        let rows = WeightRows::new(shares.as_ptr().cast(), 2 * share_stride);
        for from in (0..width).step_by(SIDE) {
            let at = values[from..].as_ptr().cast();
            let operand = PairColumns { at, stride: columns, second: TILE, shifts: &[Shift::NONE], steps: keys / SIDE };
            // SAFETY: 32 rows of `keys` softmax weights (a row is longer), and 32 columns of `keys / 2` pairs of values: columns
            // are padded to a multiple of 32, so that those from `from` on are within a row.
            unsafe { block(&tiles, rows, operand, &mut results) };
            let count = SIDE.min(width - from);
            for (at, results) in results.0.as_chunks::<SIDE>().0.iter().take(height).enumerate() {
                let share = 1.0 / totals[at];
                // SAFETY: these rows and columns are this task's alone, and the piece is dropped before the next.
                let y = unsafe { y.piece(row + first + at, column + from..column + from + count) };
                y.iter_mut().zip(results).for_each(|(y, sum)| *y = sum * share);
            }
        }
    }
}
