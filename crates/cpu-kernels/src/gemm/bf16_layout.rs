//! Operands and results of a block of bf16 GEMM, as AVX-512's dot product of pairs and AMX tiles both read them.

use super::pairs::SIDE;

/// The left operand, usually weights: rows of bf16 numbers.
#[derive(Clone, Copy)]
pub(crate) struct WeightRows {
    pub(crate) at: *const u16,
    /// Numbers from one row to the next.
    pub(crate) stride: usize,
    /// What to prefetch meanwhile.
    pub(crate) next: Ahead,
}

/// Rows of which each step prefetches one cache line.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) at: *const u16,
    /// Numbers from one row to the next.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
}

impl WeightRows {
    pub(crate) fn new(at: *const u16, stride: usize) -> Self {
        Self { at, stride, next: Ahead { at, stride, rows: 0 } }
    }
}

/// The right operand, usually activations: columns of bf16 pairs.
#[derive(Clone, Copy)]
pub(crate) struct PairColumns<'a> {
    pub(crate) at: *const u32,
    /// Pairs from one depth to the next.
    pub(crate) stride: usize,
    /// Pairs from the first tile of columns to the second.
    pub(crate) second: usize,
    /// Where each round of steps begins: the taps of a convolution see the same inputs at other places.
    pub(crate) shifts: &'a [Shift],
    /// Steps of a round, of 16 pairs each.
    pub(crate) steps: usize,
}

/// Offset of a round of steps from the first: in numbers for the rows, in pairs for the columns.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Shift {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Shift {
    /// The offset of the only round.
    pub(crate) const NONE: Self = Self { rows: 0, columns: 0 };
}

/// Results `[SIDE, SIDE]` of one block.
#[repr(align(64))]
pub(crate) struct Block(pub(crate) [f32; SIDE * SIDE]);
