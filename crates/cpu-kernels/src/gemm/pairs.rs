//! Two bf16 numbers side by side, as products in half precision read them.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports, unused_variables))] // No other processor has code here.

use crate::simd::narrow;

/// Side of a block of results.
pub(crate) const SIDE: usize = 32;

/// Side of a tile of results, and pairs in one step.
pub(crate) const TILE: usize = 16;

/// Two bf16 numbers in the place of one: only moved about, never computed with.
#[inline(always)]
pub(crate) fn join(a: f32, b: f32) -> f32 {
    f32::from_bits(u32::from(narrow(a)) | u32::from(narrow(b)) << 16)
}
