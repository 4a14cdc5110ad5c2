//! SIMD vectors of the supported instruction sets, behind one trait.
//!
//! `pulp` has no products of 16-bit integers, with which packed weights are multiplied.
#![allow(unsafe_code)]
// Scalar code alone needs less of the traits.
#![cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]

use super::bf16::widen;

/// A SIMD vector of f32 numbers, and one of 32-bit integers of the same size.
///
/// # Safety
/// The functions may only be called where the processor has the instructions (see [`super::Instructions`]).
pub(crate) unsafe trait Simd: Copy {
    /// Numbers in a vector, of 32 bits each.
    const LANES: usize;
    /// How activations are packed beside the words of packed weights.
    const SPLIT: Split;
    type Float: Copy;
    type Int: Copy;

    unsafe fn zero() -> Self::Float;
    unsafe fn load(at: *const f32) -> Self::Float;
    unsafe fn multiply_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    /// The horizontal sum of each vector; the order of additions does not depend on the vector's position among the four.
    unsafe fn sums(vectors: [Self::Float; 4]) -> [f32; 4];
    unsafe fn load_int(at: *const i32) -> Self::Int;
    unsafe fn splat(a: f32) -> Self::Float;
    unsafe fn store(at: *mut f32, a: Self::Float);
    /// Loads one bf16 number for each lane.
    unsafe fn load_bf16(at: *const u16) -> Self::Float;
    unsafe fn to_float(a: Self::Int) -> Self::Float;
    /// The lower halves of the lanes, read as bf16 numbers.
    unsafe fn lower(a: Self::Int) -> Self::Float;
    /// The upper halves of the lanes, read as bf16 numbers.
    unsafe fn upper(a: Self::Int) -> Self::Float;
    /// `sum` plus, in each lane, the dot product of the unsigned `BITS`-bit integers in its word with the activations at `x`,
    /// which are packed as [`Simd::SPLIT`] says.
    unsafe fn dot_words<const BITS: usize>(sum: Self::Int, words: Self::Int, x: *const i8) -> Self::Int;
    /// `a + (a * b >> SHIFT)`.
    unsafe fn grow<const SHIFT: u32>(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Spreads four numbers over the vector, each to a quarter of the lanes.
    unsafe fn quarters(at: *const f32) -> Self::Float;
    /// Spreads four bf16 numbers over the vector, each to a quarter of the lanes.
    unsafe fn quarters_bf16(at: *const u16) -> Self::Float;
    /// Spreads the `GROUPS` scales at `at` over the vector, each to an equal part of the lanes.
    unsafe fn scales<S: Stored, const GROUPS: usize>(at: *const S) -> Self::Float;
    /// Spreads the `GROUPS` zero points at `at` in the same way.
    unsafe fn zeros<const GROUPS: usize>(at: *const i8) -> Self::Int;
}

/// A number type in which weights and scales are stored: f32, or bf16 as `u16`.
pub(crate) trait Stored: Copy {
    fn to_f32(self) -> f32;

    /// # Safety
    /// The processor has the instructions of `V`, and a vector can be read there.
    unsafe fn load<V: Simd>(at: *const Self) -> V::Float;

    /// Spreads four numbers over the vector, each to a quarter of the lanes.
    ///
    /// # Safety
    /// The processor has the instructions of `V`, and four numbers can be read there.
    unsafe fn quarters<V: Simd>(at: *const Self) -> V::Float;
}

impl Stored for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn load<V: Simd>(at: *const f32) -> V::Float {
        // SAFETY: passed on.
        unsafe { V::load(at) }
    }

    #[inline(always)]
    unsafe fn quarters<V: Simd>(at: *const f32) -> V::Float {
        // SAFETY: passed on.
        unsafe { V::quarters(at) }
    }
}

impl Stored for u16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        widen(self)
    }

    #[inline(always)]
    unsafe fn load<V: Simd>(at: *const u16) -> V::Float {
        // SAFETY: passed on.
        unsafe { V::load_bf16(at) }
    }

    #[inline(always)]
    unsafe fn quarters<V: Simd>(at: *const u16) -> V::Float {
        // SAFETY: passed on.
        unsafe { V::quarters_bf16(at) }
    }
}

/// How activations, quantised to integers, are packed beside the words of packed weights: in vectors of [`PIECE`] bytes, four of
/// them for 4-bit weights and two for 8-bit ones. Lane `i` of each, 32 bits, belongs to word `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// As 16-bit numbers. Vector `v` of `n` holds the activations `v` and `v + n` of each word.
    Shorts,
    /// As an upper and a lower byte, `128 * upper + lower`, both signed: first the vectors of upper bytes, then those of lower
    /// ones. For 4-bit weights, each kind has the even activations of a word before the odd ones.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // Only AVX-512 wants them.
    Bytes,
}

impl Split {
    /// The greatest number that can be represented.
    pub(crate) fn limit(self) -> i16 {
        match self {
            Split::Shorts => i16::MAX,
            Split::Bytes => 127 << 7,
        }
    }
}

/// Bytes of activations that are packed together: the widest vector.
pub(crate) const PIECE: usize = 64;

/// Makes `pulp` compile a loop for the processor's instructions.
///
/// A plain closure passed to `dispatch` may be compiled as a separate function for the baseline processor. The closure must be
/// `#[inline(always)]`.
pub(crate) struct Vectorized<F>(pub(crate) F);

impl<R, F: FnMut() -> R> pulp::WithSimd for Vectorized<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}
