//! Blocks of a GEMM with bf16 operands and f32 sums, on processors that have instructions for it.
//!
//! A block is `C = A B`: `A` `[outputs, depth]` are the weights, in the layout of the file, so that they are read in place; `B`
//! `[depth, columns]` are the activations, in pairs of neighbouring depths. AMX tiles and AVX-512's dot product of pairs read the
//! same layout.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::amx::amx;
use super::bf16_layout::{Block, PairColumns, WeightRows};
use super::pairs::{SIDE, TILE};
use super::tiles::Tiles;
use crate::simd::Bf16Instructions;

/// Computes one block: 32 rows times 32 columns, summed over all rounds.
///
/// # Safety
/// From each shift, 32 rows of `steps * 32` numbers and 32 columns of `steps * 16` pairs can be read: 16 columns side by side, and
/// 16 more from `second` on.
#[inline(always)]
pub(crate) unsafe fn block(tiles: &Tiles, rows: WeightRows, columns: PairColumns, block: &mut Block) {
    // SAFETY: the tiles were made for instructions that were found; what can be read is passed on.
    unsafe {
        match tiles.instructions {
            Bf16Instructions::Amx(_) => amx(tiles, rows, columns, block),
            Bf16Instructions::Avx512(_) => avx512(rows, columns, block),
        }
    }
}

/// # Safety
/// The conditions of [`block`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn avx512(rows: WeightRows, columns: PairColumns, block: &mut Block) {
    const HEIGHT: usize = 8;
    for first in (0..SIDE).step_by(HEIGHT) {
        let mut sums = [[_mm512_setzero_ps(); 2]; HEIGHT];
        // SAFETY: rows and columns lie in what the caller promises; 8 rows of 32 results from `first` on lie in the block.
        unsafe {
            for shift in columns.shifts {
                let mut a = rows.at.add(first * rows.stride + shift.rows);
                let mut b = columns.at.add(shift.columns);
                for _ in 0..columns.steps * TILE {
                    let pairs = [b, b.add(columns.second)].map(|b| bf16(_mm512_loadu_si512(b.cast())));
                    for row in 0..HEIGHT {
                        let weight = bf16(_mm512_set1_epi32(a.add(row * rows.stride).cast::<i32>().read_unaligned()));
                        sums[row][0] = _mm512_dpbf16_ps(sums[row][0], weight, pairs[0]);
                        sums[row][1] = _mm512_dpbf16_ps(sums[row][1], weight, pairs[1]);
                    }
                    // Behind the last pair there need be no memory.
                    a = a.wrapping_add(2);
                    b = b.wrapping_add(columns.stride);
                }
            }
            let out = block.0.as_mut_ptr().add(first * SIDE);
            for (row, sums) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(out.add(row * SIDE), sums[0]);
                _mm512_storeu_ps(out.add(row * SIDE + TILE), sums[1]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn bf16(a: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without structure.
    unsafe { std::mem::transmute(a) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::bf16_layout::{Ahead, Shift};
    use crate::gemm::bf16_operand::transpose_square;
    use crate::gemm::join;
    use crate::simd::narrow;

    fn instructions() -> Option<Bf16Instructions> {
        crate::simd::Processor::best().bf16
    }

    #[test]
    fn a_square_is_turned() {
        if instructions().is_none() {
            return;
        }
        let matrix: Vec<f32> = (0..16 * 20).map(|i| i as f32).collect();
        let mut out = [0.0; TILE * TILE];
        // SAFETY: bf16 kernels run only where there is AVX-512.
        unsafe { transpose_square(&matrix, 20, &mut out) };
        assert!((0..TILE * TILE).all(|at| out[at] == matrix[at % TILE * 20 + at / TILE]));
    }

    #[test]
    fn a_square_whose_size_wraps_is_a_bug() {
        if instructions().is_none() {
            return;
        }
        // SAFETY: just asked for. 15 strides and 16 numbers are 0 where sizes wrap.
        let turn = || unsafe { transpose_square(&[0.0; 16], 0x1111_1111_1111_1110, &mut [0.0; TILE * TILE]) };
        assert!(std::panic::catch_unwind(turn).is_err());
    }

    /// Blocks of every kind of instructions against sums in f64.
    #[test]
    fn a_block_over_several_shifts_is_right() {
        let (stride, width, steps) = (2 * 32 + 6, 57, 2);
        let number = |at: usize, seed: usize| ((at * 7919 + seed) % 1009) as f32 / 504.5 - 1.0;
        let rows: Vec<u16> = (0..SIDE * stride).map(|at| narrow(number(at, 1))).collect();
        let pairs: Vec<f32> = (0..32 * width).map(|at| join(number(at, 2), number(at, 3))).collect();
        let shifts = [Shift { rows: 6, columns: 9 }, Shift { rows: 0, columns: 0 }, Shift { rows: 4, columns: 25 }];
        let (weight, half) = (|row, at| crate::simd::widen(rows[row * stride + at]), |bits: u32| bits as u16);
        let value = |depth: usize, column: usize| {
            let bits = pairs[depth / 2 * width + column].to_bits();
            crate::simd::widen(if depth.is_multiple_of(2) { half(bits) } else { half(bits >> 16) })
        };
        let expected = |row: usize, column: usize| -> f64 {
            let column = column % TILE + column / TILE * 16;
            let terms = shifts.iter().flat_map(|shift| (0..32 * steps).map(move |at| (shift, at)));
            let term = |(shift, at): (&Shift, usize)| {
                f64::from(weight(row, shift.rows + at)) * f64::from(value(at, shift.columns + column))
            };
            terms.map(term).sum()
        };
        for (processor, instructions) in crate::simd::Processor::with_bf16() {
            // A thread that waits for others may begin another task while it has tiles.
            let (tiles, other) = (Tiles::new(instructions), Tiles::new(instructions));
            drop(other);
            for ahead in [0, 3] {
                let next = Ahead { at: rows.as_ptr(), stride, rows: ahead };
                let rows = WeightRows { next, ..WeightRows::new(rows.as_ptr(), stride) };
                let at = pairs.as_ptr().cast();
                let columns = PairColumns { at, stride: width, second: 16, shifts: &shifts, steps };
                let mut results = Block([f32::NAN; SIDE * SIDE]);
                // SAFETY: a row has `stride` numbers, at least the greatest shift and 2 steps of 32; 32 rows of pairs have at least
                // the greatest shift and 32 columns.
                unsafe { block(&tiles, rows, columns, &mut results) };
                for (at, result) in results.0.iter().enumerate() {
                    let expected = expected(at / SIDE, at % SIDE);
                    assert!((expected - f64::from(*result)).abs() < 1e-4, "{processor:?}: {result} for {expected}");
                }
            }
            // Without a step, nothing is read.
            let columns = PairColumns { at: std::ptr::null(), stride: 0, second: 0, shifts: &shifts, steps: 0 };
            let mut results = Block([f32::NAN; SIDE * SIDE]);
            // SAFETY: as said.
            unsafe { block(&tiles, WeightRows::new(rows.as_ptr(), stride), columns, &mut results) };
            assert!(results.0.iter().all(|result| *result == 0.0));
        }
    }
}
