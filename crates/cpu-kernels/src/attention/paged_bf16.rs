//! Paged attention of many new rows with bf16 operands, with an online softmax in f32: it takes no more memory than a few pages,
//! however long the cache.
#![allow(unsafe_code)] // Raw bf16 operands, and tasks that write disjoint columns of the same rows: see `buffer`.

use std::ops::Range;

use super::paged::{PAGE, Page};
use super::softmax::softmax;
use super::task::Task;
use crate::activation::exp;
use crate::buffer::aligned;
use crate::gemm::{Block, PairColumns, SIDE, Shift, TILE, Tiles, WeightRows, block, round_pairs};
use crate::simd::Bf16Instructions;

/// Pages of keys that a block of queries is multiplied with at a time.
const PAGES: usize = 4;

/// Buffers of a task: kept, since fresh memory costs time.
#[derive(Default)]
pub(crate) struct Scratch {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    shares: Vec<f32>,
    sums: Vec<f32>,
    greatest: Vec<f32>,
    totals: Vec<f32>,
}

/// Computes blocks of 32 queries of one KV head, whose width is a multiple of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn run(instructions: Bf16Instructions, task: Task, blocks: Range<usize>, memory: &mut Scratch) {
    let (cache, width) = (task.cache, task.cache.width);
    assert!(width.is_multiple_of(SIDE), "a head width of {width}");
    let (depth, first) = (width / 2, blocks.start * SIDE);
    let count = (blocks.end * SIDE).min(task.queries()) - first;
    let Scratch { queries, keys, values, scores, shares, sums, greatest, totals } = memory;
    // Queries and softmax weights are rows of bf16 numbers; keys and values are pairs, along the width and along time.
    let queries = aligned(queries, count.next_multiple_of(SIDE) * depth);
    for (at, queries) in queries.chunks_exact_mut(depth).enumerate() {
        if at < count { round_pairs(task.query(first + at), queries) } else { queries.fill(0.0) }
    }
    let keys = aligned(keys, PAGES * PAGE * depth);
    let values = aligned(values, PAGES * PAGE / 2 * width);
    let scores = aligned(scores, SIDE * PAGES * PAGE);
    // A stride of a multiple of 4096 bytes would map all rows to the same set of the L1 cache.
    const SHARES: usize = PAGES * PAGE / 2 + TILE;
    let shares = aligned(shares, SIDE * SHARES);
    let sums = aligned(sums, count * width);
    sums.fill(0.0);
    greatest.clear();
    greatest.resize(count, f32::NEG_INFINITY);
    totals.clear();
    totals.resize(count, 0.0);
    let scale = 1.0 / (width as f32).sqrt();
    let tiles = Tiles::new(instructions);
    let mut results = Block([0.0; SIDE * SIDE]);
    let pages = task.last(first + count - 1) / PAGE + 1;
    for start in (0..pages).step_by(PAGES) {
        let here = start..(start + PAGES).min(pages);
        for (page, (keys, values)) in
            here.zip(keys.chunks_exact_mut(PAGE * depth).zip(values.chunks_exact_mut(PAGE / 2 * width)))
        {
            let Page::Bf16 { keys: k, values: v } = &*cache.pages[page] else {
                unreachable!("only caches in bf16 come here")
            };
            let of_head = task.head * width * PAGE..(task.head + 1) * width * PAGE;
            pair_rows(&k[of_head.clone()], PAGE, keys);
            pair_rows(&v[of_head], width, values);
        }
        let start = start * PAGE;
        for from in (0..count).step_by(SIDE) {
            let height = SIDE.min(count - from);
            // Keys that any of these queries sees.
            let seen = (task.last(first + from + height - 1) + 1).saturating_sub(start).min(PAGES * PAGE);
            if seen == 0 {
                continue;
            }
            let length = seen.next_multiple_of(SIDE);
            let rows = WeightRows::new(queries[from * depth..][..SIDE * depth].as_ptr().cast(), width);
            for key in (0..length).step_by(SIDE) {
                let at = keys[key / PAGE * PAGE * depth + key % PAGE..].as_ptr().cast();
                let operand =
                    PairColumns { at, stride: PAGE, second: TILE, shifts: &[Shift::NONE], steps: width / SIDE };
                // SAFETY: 32 rows of queries of `width` numbers were just taken, and the 32 keys lie in one page of
                // `width / 2` pairs for each of 64 keys, from a multiple of 32 on.
                unsafe { block(&tiles, rows, operand, &mut results) };
                let rows = scores.chunks_exact_mut(PAGES * PAGE).zip(results.0.as_chunks::<SIDE>().0);
                rows.take(height).for_each(|(scores, results)| scores[key..key + SIDE].copy_from_slice(results));
            }
            let mut former = [1.0; SIDE];
            for (at, scores) in scores.chunks_exact_mut(PAGES * PAGE).take(height).enumerate() {
                let seen = (task.last(first + from + at) + 1).saturating_sub(start).min(length);
                let (greatest, total) = (&mut greatest[from + at], &mut totals[from + at]);
                if seen > 0 {
                    let (now, sum) = softmax::<true>(&mut scores[..seen], scale, *greatest);
                    former[at] = exp::<true>((*greatest - now) * scale);
                    (*greatest, *total) = (now, *total * former[at] + sum);
                }
                round_pairs(&scores[..seen], &mut shares[at * SHARES..][..length / 2]);
            }
            let rows = WeightRows::new(shares.as_ptr().cast(), 2 * SHARES);
            for column in (0..width).step_by(SIDE) {
                let at = values[column..].as_ptr().cast();
                let operand =
                    PairColumns { at, stride: width, second: TILE, shifts: &[Shift::NONE], steps: length / SIDE };
                // SAFETY: 32 rows of `length` shares (a row is longer), and 32 columns of `length / 2` pairs of values, which are
                // `width` wide, a multiple of 32.
                unsafe { block(&tiles, rows, operand, &mut results) };
                for (at, results) in results.0.as_chunks::<SIDE>().0.iter().take(height).enumerate() {
                    let sums = &mut sums[(from + at) * width + column..][..SIDE];
                    sums.iter_mut().zip(results).for_each(|(sum, result)| *sum = *sum * former[at] + result);
                }
            }
        }
    }
    for (at, sums) in sums.chunks_exact(width).enumerate() {
        let (row, column) = task.place(first + at);
        // SAFETY: these columns of this row are this task's alone, and the piece is dropped before the next.
        let y = unsafe { task.y.piece(row, column..column + width) };
        let share = 1.0 / totals[at];
        y.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum * share);
    }
}

/// Packs every two rows of bf16 numbers into one row of pairs.
#[inline(always)]
fn pair_rows(rows: &[u16], width: usize, pairs: &mut [f32]) {
    for (two, pairs) in rows.chunks_exact(2 * width).zip(pairs.chunks_exact_mut(width)) {
        let (a, b) = two.split_at(width);
        let both = pairs.iter_mut().zip(a).zip(b);
        both.for_each(|((pair, a), b)| *pair = f32::from_bits(u32::from(*a) | u32::from(*b) << 16));
    }
}
