//! Activations of the skinny GEMM, packed in the orders in which its inner loops read them.

use super::weight::{Matrix, Weight};
use crate::buffer::{AlignedVec, size};
use crate::simd::{Instructions, PIECE, Split};

/// Lanes of 32 bits in the widest vector: activations are packed so that narrower vectors read parts of the same order.
pub(super) const WIDE: usize = PIECE / 4;

/// Rows of activations for the skinny GEMM, packed for each kind of weight on demand. The buffers are reused by the next rows.
#[derive(Debug, Default)]
pub struct Activations {
    pub(super) rows: usize,
    pub(super) input: usize,
    pub(super) plain: Vec<f32>,
    /// bf16 weights: in groups of 32, the even positions, then the odd ones.
    pub(super) even_odd: AlignedVec<f32>,
    pub(super) has_even_odd: bool,
    /// 4-bit weights, then 8-bit weights.
    pub(super) integers: [Integers; 2],
    /// One row as integers, before it is packed.
    rounded: Vec<i16>,
}

/// Rows quantised to integers and packed as [`Split`] says.
#[derive(Debug, Default)]
pub(super) struct Integers {
    pub(super) laid: AlignedVec<i8>,
    /// How they are packed; `None` if they are not those of the current rows.
    pub(super) split: Option<Split>,
    /// One scale per row.
    pub(super) scales: Vec<f32>,
    /// For each 32-bit lane, the sum of its activations times minus the stored integer that stands for zero.
    pub(super) offsets: AlignedVec<i32>,
}

impl Activations {
    /// Takes new rows `[rows, input]`.
    ///
    /// # Panics
    /// If `x` is not a whole number of rows.
    pub fn set(&mut self, x: &[f32], input: usize) {
        self.fill(x.len().checked_div(input).unwrap_or(0), input).copy_from_slice(x);
    }

    /// Makes room for new rows `[rows, input]`, which the caller writes.
    ///
    /// # Panics
    /// If their size overflows.
    pub fn fill(&mut self, rows: usize, input: usize) -> &mut [f32] {
        self.plain.resize(size([rows, input]), 0.0);
        (self.rows, self.input) = (rows, input);
        self.has_even_odd = false;
        self.integers.iter_mut().for_each(|integers| integers.split = None);
        &mut self.plain
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The rows `[rows, input]`.
    pub fn plain(&self) -> &[f32] {
        &self.plain
    }

    /// The rows, to be changed; they count as new ones.
    pub fn plain_mut(&mut self) -> &mut [f32] {
        self.fill(self.rows, self.input)
    }

    /// Takes rows whose number is only known once they are computed: `f` fills the buffer and returns the width of a row.
    ///
    /// # Panics
    /// If the values are not whole rows.
    pub fn fill_with(&mut self, f: impl FnOnce(&mut Vec<f32>) -> usize) {
        let mut values = std::mem::take(&mut self.plain);
        let width = f(&mut values);
        let rows = values.len().checked_div(width).unwrap_or(0);
        assert_eq!(values.len(), rows * width, "whole rows");
        self.plain = values;
        self.fill(rows, width);
    }

    /// Width of a row.
    pub fn width(&self) -> usize {
        self.input
    }

    /// Values that fit without another allocation.
    pub fn capacity(&self) -> usize {
        self.plain.capacity()
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        let integers = self
            .integers
            .iter()
            .map(|integers| integers.laid.bytes() + 4 * integers.scales.capacity() + integers.offsets.bytes());
        4 * self.plain.capacity() + self.even_odd.bytes() + integers.sum::<usize>() + 2 * self.rounded.capacity()
    }

    /// Packs the rows in the order that the skinny GEMM with this weight reads, unless they are already.
    pub(crate) fn prepare(&mut self, instructions: Instructions, matrix: &Matrix) {
        let split = instructions.split();
        match matrix.weight() {
            Weight::Bf16(_) if !self.has_even_odd => self.pack_even_odd(),
            Weight::Packed(packed) if self.integers[packed.bits / 8].split != Some(split) => match packed.bits {
                4 => self.quantize::<4>(split),
                _ => self.quantize::<8>(split),
            },
            _ => {}
        }
    }

    /// Panics unless the rows are packed for this weight: the kernel would read stale rows, or another order.
    pub(super) fn assert_prepared(&self, instructions: Instructions, matrix: &Matrix) {
        let prepared = match matrix.weight() {
            Weight::F32(_) => true,
            Weight::Bf16(_) => self.has_even_odd,
            Weight::Packed(packed) => self.integers[packed.bits / 8].split == Some(instructions.split()),
        };
        assert!(prepared, "the inputs are prepared for the weight");
    }

    fn pack_even_odd(&mut self) {
        self.has_even_odd = true;
        let length = self.input / (2 * WIDE) * (2 * WIDE);
        let values = self.even_odd.resize(size([self.rows, length]));
        for (row, out) in self.plain.chunks_exact(self.input.max(1)).zip(values.chunks_exact_mut(length.max(1))) {
            for (piece, out) in row.as_chunks::<{ 2 * WIDE }>().0.iter().zip(out.as_chunks_mut::<{ 2 * WIDE }>().0) {
                for at in 0..WIDE {
                    (out[at], out[WIDE + at]) = (piece[2 * at], piece[2 * at + 1]);
                }
            }
        }
    }

    fn quantize<const BITS: usize>(&mut self, split: Split) {
        let per_word = 32 / BITS;
        let length = self.input / (WIDE * per_word) * (WIDE * per_word);
        let Integers { laid, split: laid_as, scales, offsets } = &mut self.integers[BITS / 8];
        let row_bytes = size([length, size_of::<i16>()]);
        let values = laid.resize(size([self.rows, row_bytes]));
        *laid_as = Some(split);
        scales.clear();
        let words = length / per_word;
        let offsets = offsets.resize(size([self.rows, words]));
        for (at, row) in self.plain.chunks_exact(self.input.max(1)).enumerate() {
            // Without their sign, the bits of floats are ordered as the floats are: infinity and NaN come last, and make the
            // scale and with it all outputs NaN.
            let largest = row.iter().fold(0, |most, x| x.abs().to_bits().max(most));
            let largest = f32::from_bits(largest);
            let scale = if largest.is_finite() { largest / f32::from(split.limit()) } else { f32::NAN };
            scales.push(scale);
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            self.rounded.clear();
            self.rounded.extend(row[..length].iter().map(|x| round(x * inverse)));
            let middle = -(1 << (BITS - 1));
            let sums = self.rounded.chunks_exact(per_word).map(|x| x.iter().map(|x| i32::from(*x)).sum::<i32>());
            offsets[at * words..][..words].iter_mut().zip(sums).for_each(|(offset, sum)| *offset = middle * sum);
            let pieces = values[at * row_bytes..][..row_bytes].chunks_exact_mut(2 * WIDE * per_word);
            for (x, piece) in self.rounded.chunks_exact(WIDE * per_word).zip(pieces) {
                pack_piece::<BITS>(split, x, piece);
            }
        }
    }
}

#[inline(always)]
fn round(x: f32) -> i16 {
    // Adding this rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i16
}

/// Packs the activations that belong to [`WIDE`] words of weights.
#[inline(always)]
fn pack_piece<const BITS: usize>(split: Split, x: &[i16], piece: &mut [i8]) {
    let (per_word, vectors) = (32 / BITS, 16 / BITS);
    for (word, x) in x.chunks_exact(per_word).enumerate() {
        match split {
            Split::Shorts => {
                for vector in 0..vectors {
                    let ([a, b], [c, d]) = (x[vector].to_le_bytes(), x[vector + vectors].to_le_bytes());
                    let lane = [a, b, c, d].map(|byte| byte as i8);
                    piece[vector * PIECE + 4 * word..][..4].copy_from_slice(&lane);
                }
            }
            Split::Bytes => {
                for (at, x) in x.iter().enumerate() {
                    let upper = x.wrapping_add(64) >> 7;
                    let (vector, byte) = (at % (vectors / 2), at / (vectors / 2));
                    piece[vector * PIECE + 4 * word + byte] = upper as i8;
                    piece[(vector + vectors / 2) * PIECE + 4 * word + byte] = x.wrapping_sub(upper << 7) as i8;
                }
            }
        }
    }
}
