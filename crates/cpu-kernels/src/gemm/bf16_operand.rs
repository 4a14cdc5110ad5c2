//! Operands of a bf16 GEMM: weights as rows of bf16 numbers, activations as transposed pairs.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::bf16_block::bf16;
use super::bf16_layout::{Ahead, WeightRows};
use super::pairs::{SIDE, TILE, join};
use super::weight::{Matrix, Packed, Weight};
use crate::buffer::{aligned, prefetch_ahead};
use crate::simd::narrow;

/// Transposes a square of 16 × 16 numbers, whose rows begin every `stride` numbers.
///
/// # Panics
/// If the matrix is smaller than that.
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose_square(matrix: &[f32], stride: usize, out: &mut [f32; TILE * TILE]) {
    assert!(stride <= matrix.len() && matrix.len() >= (TILE - 1) * stride + TILE, "a square of 16 x 16");
    // SAFETY: the rows lie in the matrix (just asserted); what is written is sliced off the square, 16 numbers before its end.
    unsafe {
        let rows: [__m512; TILE] = std::array::from_fn(|row| _mm512_loadu_ps(matrix.as_ptr().add(row * stride)));
        // Unpacks pairs of rows, then fours, then exchanges the quarters of the vectors.
        let pairs: [__m512; TILE] = std::array::from_fn(|at| {
            let (a, b) = (rows[at / 2 * 2], rows[at / 2 * 2 + 1]);
            if at % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
        });
        let fours: [__m512d; TILE] = std::array::from_fn(|at| {
            let first = at / 4 * 4 + at % 4 / 2;
            let (a, b) = (_mm512_castps_pd(pairs[first]), _mm512_castps_pd(pairs[first + 2]));
            if at % 2 == 0 { _mm512_unpacklo_pd(a, b) } else { _mm512_unpackhi_pd(a, b) }
        });
        let eights: [__m512; TILE] = std::array::from_fn(|at| {
            let column = at % 4;
            let [a, b] = [at / 8 * 8 + column, at / 8 * 8 + 4 + column].map(|at| _mm512_castpd_ps(fours[at]));
            if at / 4 % 2 == 0 { _mm512_shuffle_f32x4::<0x88>(a, b) } else { _mm512_shuffle_f32x4::<0xDD>(a, b) }
        });
        for column in 0..4 {
            for odd in 0..2 {
                let (a, b) = (eights[4 * odd + column], eights[8 + 4 * odd + column]);
                let at = 4 * odd + column;
                _mm512_storeu_ps(out[at * TILE..].as_mut_ptr(), _mm512_shuffle_f32x4::<0x88>(a, b));
                _mm512_storeu_ps(out[(at + 8) * TILE..].as_mut_ptr(), _mm512_shuffle_f32x4::<0xDD>(a, b));
            }
        }
    }
}

/// Rounds numbers to bf16 and stores neighbours as pairs, each in the place of one f32; pairs beyond the last number are zero.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn round_pairs(x: &[f32], pairs: &mut [f32]) {
    const PIECE: usize = 32;
    let (pieces, rest) = x.as_chunks::<PIECE>();
    let (out, rest_out) = pairs.split_at_mut(pieces.len() * PIECE / 2);
    for (x, out) in pieces.iter().zip(out.as_chunks_mut::<{ PIECE / 2 }>().0) {
        // SAFETY: 32 numbers are read, and as many of half the size are written to the place of 16; arrays of these sizes.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x[PIECE / 2..].as_ptr()));
            out.as_mut_ptr().cast::<__m512bh>().write_unaligned(_mm512_cvtne2ps_pbh(high, low));
        }
    }
    rest_out.fill(0.0);
    rest_out.iter_mut().zip(rest.chunks(2)).for_each(|(out, x)| *out = join(x[0], x.get(1).copied().unwrap_or(0.0)));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bits_of(a: __m512bh) -> __m512i {
    // SAFETY: both are 512 bits without structure.
    unsafe { std::mem::transmute(a) }
}

thread_local! {
    /// Weights converted to bf16 rows; kept, since fresh memory costs time.
    static SCRATCH: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
}

/// Calls `with` with the numbers `part` of the rows `first..first + SIDE` of a weight in bf16, zero beyond the weight's end. What is
/// in bf16 already is read in place, unless it is to be `copied`.
///
/// # Panics
/// If only a part is asked for of a weight of packed integers.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn with_rows(
    matrix: &Matrix,
    first: usize,
    part: Range<usize>,
    copied: impl Fn(WeightRows) -> bool,
    with: impl FnOnce(WeightRows),
) {
    let [output, input] = matrix.shape();
    assert!(part.start <= input && part.start < part.end, "numbers {part:?} of a row of {input}");
    let mut next = Ahead { at: std::ptr::null(), stride: 0, rows: 0 };
    // Beyond a row's end lies the next row, which is multiplied by zeros; beyond the last row, nothing that may be read.
    if let Weight::Bf16(values) = matrix.weight()
        && first + SIDE <= output
        && (first + SIDE - 1) * input + part.end <= values.len()
    {
        let at = values[first * input + part.start..].as_ptr();
        next = Ahead { at: at.wrapping_add(SIDE * input), stride: input, rows: 0 };
        let rows = WeightRows { next, ..WeightRows::new(at, input) };
        if !copied(rows) {
            return with(rows);
        }
    }
    let mut scratch = SCRATCH.take();
    // A stride of a multiple of 4096 bytes would map all rows to the same set of the L1 cache.
    let stride = part.len() + 2 * TILE;
    let rows = aligned(&mut scratch, SIDE * stride);
    for (row, out) in (first..first + SIDE).zip(rows.chunks_exact_mut(stride)) {
        let numbers = if row < output { part.start..part.end.min(input) } else { 0..0 };
        let (out, beyond) = out.split_at_mut(numbers.len());
        beyond.fill(0);
        if row >= output {
            continue;
        }
        match matrix.weight() {
            Weight::F32(values) => {
                let values = &values[row * input..][numbers];
                out.iter_mut().zip(values).for_each(|(out, value)| *out = narrow(*value));
            }
            Weight::Bf16(values) => out.copy_from_slice(&values[row * input..][numbers]),
            Weight::Packed(packed) => {
                assert_eq!(numbers, 0..input, "packed rows are unpacked whole");
                unpack(packed, row, input, out);
            }
        }
    }
    with(WeightRows { next, ..WeightRows::new(rows.as_ptr(), stride) });
    SCRATCH.set(scratch);
}

/// Dequantises one row of packed integers to bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn unpack(packed: &Packed, row: usize, input: usize, out: &mut [u16]) {
    const PIECE: usize = 32;
    let Packed { bits, group, words, zeros, .. } = *packed;
    let (per_row, groups) = (packed.words_per_row(input), input.div_ceil(group));
    let words = &words[row * per_row..][..per_row];
    // Pieces that lie in one group; the rest is dequantised in f32.
    let whole = if group.is_multiple_of(PIECE) || groups == 1 { input / PIECE * PIECE } else { 0 };
    let per_group = group / PIECE;
    let (mut at, mut left) = (row * groups, per_group);
    for (piece, out) in out[..whole].as_chunks_mut::<PIECE>().0.iter_mut().enumerate() {
        if left == 0 {
            (at, left) = (at + 1, per_group);
        }
        left = left.saturating_sub(1);
        if groups == 1 {
            left = 1;
        }
        let zero = (1 << (bits - 1)) + zeros.map_or(0, |zeros| i32::from(zeros[at]));
        let (scale, zero) = (_mm512_set1_ps(packed.scales.at(at)), _mm512_set1_epi32(zero));
        let word = piece * bits;
        prefetch_ahead(words[word..].as_ptr());
        let value = |integers| _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(integers, zero)), scale);
        let pair = if bits == 4 {
            // SAFETY: 16 bytes are 32 integers, which the row has.
            let bytes = unsafe { _mm_loadu_si128(words[word..word + 4].as_ptr().cast()) };
            let mask = _mm_set1_epi8(15);
            let (low, high) = (_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask));
            let integers = _mm256_set_m128i(_mm_unpackhi_epi8(low, high), _mm_unpacklo_epi8(low, high));
            // A group has only 16 values: each integer looks its own up in a table.
            let all = value(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
            let table = bits_of(_mm512_cvtne2ps_pbh(all, all));
            bf16(_mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(integers), table))
        } else {
            // SAFETY: 32 bytes are 32 integers, which the row has.
            let bytes = unsafe {
                let at: *const __m128i = words[word..word + 8].as_ptr().cast();
                [_mm_loadu_si128(at), _mm_loadu_si128(at.add(1))]
            };
            let [low, high] = bytes.map(|bytes| value(_mm512_cvtepu8_epi32(bytes)));
            _mm512_cvtne2ps_pbh(high, low)
        };
        // SAFETY: the piece has room for 32 numbers.
        unsafe { out.as_mut_ptr().cast::<__m512bh>().write_unaligned(pair) };
    }
    let mut values = [0.0; PIECE];
    for start in (whole..input).step_by(PIECE) {
        let values = &mut values[..PIECE.min(input - start)];
        packed.read(row, input, start, values);
        out[start..].iter_mut().zip(values).for_each(|(out, value)| *out = narrow(*value));
    }
}
