//! What a linear layer computes: sizes, precision, and the epilogue.

use pulp::Arch;

use crate::activation::{gelu_on, gelu_tanh_on};

/// Sizes of a linear layer; see [`crate::linear`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows of the input and of the output.
    pub rows: usize,
    /// Width of an input row.
    pub input: usize,
    /// Width of an output row.
    pub output: usize,
}

/// Precision of a GEMM with more than [`crate::SKINNY_MAX_ROWS`] rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Operands and sums in f32.
    #[default]
    F32,
    /// Both operands rounded to bf16 where the processor has instructions for that; sums in f32.
    Bf16,
}

/// What follows the sums of a GEMM before they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Epilogue {
    /// Writes the sums.
    #[default]
    Keep,
    /// Adds the sums to the output, such as a residual.
    Add,
    /// Writes the exact GELU of the sums.
    Gelu,
    /// Writes the GELU of the sums, by its tanh approximation.
    GeluTanh,
}

impl Epilogue {
    pub(super) fn activate(self, arch: Arch, y: &mut [f32]) {
        match self {
            Epilogue::Keep | Epilogue::Add => {}
            Epilogue::Gelu => gelu_on(arch, y),
            Epilogue::GeluTanh => gelu_tanh_on(arch, y),
        }
    }
}
