//! What a GEMM computes: sizes, precision, and what follows the sums.

use pulp::Arch;

use crate::activation::{gelu_on, gelu_tanh_on};

/// What [`linear`] multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows of the input and of the output.
    pub rows: usize,
    /// Width of an input row.
    pub input: usize,
    /// Width of an output row.
    pub output: usize,
}

/// How exactly many rows are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// In single precision.
    #[default]
    F32,
    /// Both sides rounded to bf16 where the processor multiplies that faster; sums in single precision.
    Bf16,
}

/// What becomes of the sums of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Epilogue {
    /// They are the outputs.
    #[default]
    Keep,
    /// They are added to what is there.
    Add,
    /// Their exact GELU is the output.
    Gelu,
    /// Their GELU by its tanh approximation is the output.
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
