//! Pairs of bf16 numbers, as the bf16 GEMM reads them, and the sizes of its blocks.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports, unused_variables))] // No other processor has code here.

use crate::simd::narrow;

/// Side of a block of results.
pub(crate) const SIDE: usize = 32;

/// Side of a tile of results, and pairs in one step.
pub(crate) const TILE: usize = 16;

/// Packs two numbers, rounded to bf16, into the bits of one f32, which is only moved and never computed with.
#[inline(always)]
pub(crate) fn join(a: f32, b: f32) -> f32 {
    f32::from_bits(u32::from(narrow(a)) | u32::from(narrow(b)) << 16)
}
