//! The product of many rows with a weight in half precision.
#![allow(unsafe_code)] // Raw operands of `half`, and tasks that write other columns of the same rows.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::half::{Block, Columns as Operand, HalfInstructions, SIDE, TILE, Tiles, block, with_rows};
use crate::half_pairs::join;
use crate::memory::{Columns, aligned};
use crate::tile::turn;
use crate::weight::Weight;

/// Bytes of inputs that one pass over the weights works with: they stay in the second cache.
const KEPT: usize = 1 << 20;

/// Rows of inputs as pairs: in blocks of 16 rows, each `[depth / 2, 16]`.
pub(crate) struct Pairs<'a> {
    values: &'a [f32],
    rows: usize,
    /// Pairs, a multiple of 16.
    depth: usize,
}

impl<'a> Pairs<'a> {
    /// Rounds the rows given by number (`[_, input]`) to bf16; `memory` is what the pairs lie in.
    pub(crate) fn new<'x>(
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
            pairs.clear();
            pairs.resize(TILE * depth, 0.0);
            for (at, pairs) in pairs.chunks_exact_mut(depth).take(count).enumerate() {
                let (twos, rest) = row(block * TILE + at).as_chunks::<2>();
                pulp::Arch::new()
                    .dispatch(|| pairs.iter_mut().zip(twos).for_each(|(pair, [a, b])| *pair = join(*a, *b)));
                if let [last] = rest {
                    pairs[twos.len()] = join(*last, 0.0);
                }
            }
            turn(&pairs, depth, TILE, values, TILE);
            PAIRS.set(pairs);
        });
        Self { values, rows, depth }
    }
}

thread_local! {
    static PAIRS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static INPUTS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `emit(row, first output, sums)` for every row and every 16 outputs of some blocks of 32 outputs.
///
/// # Panics
/// If the weight has not its shape.
fn blocks(
    instructions: HalfInstructions,
    pairs: &Pairs,
    weight: &Weight,
    shape: [usize; 2],
    blocks: std::ops::Range<usize>,
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    let _tiles = Tiles::new(instructions);
    let mut results = Block([0.0; SIDE * SIDE]);
    let mut turned = [0.0; SIDE * TILE];
    let row_blocks = pairs.rows.div_ceil(SIDE);
    let at_once = (KEPT / (pairs.depth * 4 * SIDE)).max(1);
    for first in (0..row_blocks).step_by(at_once) {
        for output in blocks.clone().map(|block| block * SIDE) {
            with_rows(weight, shape, output, 2 * pairs.depth, |rows| {
                for row in (first..row_blocks.min(first + at_once)).map(|block| block * SIDE) {
                    let at = pairs.values[row * pairs.depth..][..SIDE * pairs.depth].as_ptr().cast();
                    let columns = Operand {
                        at,
                        stride: TILE,
                        second: pairs.depth * TILE,
                        shifts: &[0],
                        steps: pairs.depth / TILE,
                    };
                    // SAFETY: the instructions were found; `with_rows` gives 32 rows of this depth, and two blocks of 16
                    // rows' pairs were just taken.
                    unsafe { block(instructions, rows, columns, &mut results) };
                    for half in 0..(shape[0] - output).min(SIDE).div_ceil(TILE) {
                        turn(&results.0[half * TILE * SIDE..], SIDE, TILE, &mut turned, TILE);
                        let count = TILE.min(shape[0] - output - half * TILE);
                        let sums = turned.chunks_exact(TILE).take(pairs.rows - row);
                        sums.enumerate().for_each(|(at, sums)| emit(row + at, output + half * TILE, &sums[..count]));
                    }
                }
            });
        }
    }
}

/// `y = x Wᵀ + b` with `x` `[rows, input]` and `y` `[rows, output]`.
pub(crate) fn linear(
    instructions: HalfInstructions,
    x: &[f32],
    weight: &Weight,
    bias: Option<&[f32]>,
    [output, input]: [usize; 2],
    y: &mut [f32],
) {
    let mut memory = INPUTS.take();
    let pairs = Pairs::new(|row| &x[row * input..][..input], x.len() / input, input, &mut memory);
    let columns = Columns::new(y, output);
    let all = output.div_ceil(SIDE);
    let tasks = all.min(8 * rayon::current_num_threads());
    (0..tasks).into_par_iter().for_each(|task| {
        let range = all * task / tasks..all * (task + 1) / tasks;
        blocks(instructions, &pairs, weight, [output, input], range, |row, at, sums| {
            // SAFETY: these columns are this task's alone, and the piece is dropped at once.
            let y = unsafe { columns.piece(row, at..at + sums.len()) };
            match bias {
                Some(bias) => y.iter_mut().zip(sums).zip(&bias[at..]).for_each(|((y, sum), bias)| *y = sum + bias),
                None => y.copy_from_slice(sums),
            }
        });
    });
    INPUTS.set(memory);
}

/// As [`linear`], on this thread alone, for rows of a larger matrix.
pub(crate) fn linear_here<'a>(
    instructions: HalfInstructions,
    row: impl Fn(usize) -> &'a [f32] + Sync,
    rows: usize,
    weights: &[&Weight],
    [output, input]: [usize; 2],
    mut emit: impl FnMut(usize, usize, usize, &[f32]),
) {
    let mut memory = INPUTS.take();
    let pairs = Pairs::new(row, rows, input, &mut memory);
    for (number, weight) in weights.iter().enumerate() {
        let all = 0..output.div_ceil(SIDE);
        blocks(instructions, &pairs, weight, [output, input], all, |row, at, sums| emit(number, row, at, sums));
    }
    INPUTS.set(memory);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::few::tests::numbers;
    use crate::weight::tests::Sample;
    use crate::weight::{narrow, widen};
    use proptest::prelude::*;

    /// Largest distance from the product of the rounded operands in f64, as a share of the terms' size.
    fn error(instructions: HalfInstructions, weight: Weight, rows: usize, [output, input]: [usize; 2]) -> f64 {
        let (x, bias) = (numbers(rows * input, 1), numbers(output, 7));
        let mut y = vec![0.0; rows * output];
        linear(instructions, &x, &weight, Some(&bias), [output, input], &mut y);
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
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
            for instructions in HalfInstructions::available() {
                let error = error(instructions, weight, rows, [output, input]);
                prop_assert!(error < 1e-6, "{instructions:?}: {error}");
            }
        }
    }
}
