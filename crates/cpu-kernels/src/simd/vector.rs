//! Vectors of the processors this crate has code for, behind one trait.
//!
//! `pulp` has no products of 16-bit integers; they are what packed weights are multiplied with.
#![allow(unsafe_code)]
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // Scalar code alone needs less of the traits.

use super::bf16::widen;
use super::level::SimdLevel;
use super::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// A vector of single-precision numbers and one of the same size of integers.
///
/// # Safety
/// The functions may only be called where the processor has the instructions (see [`Instructions`]).
pub(crate) unsafe trait Simd: Copy {
    /// Numbers in a vector.
    const LANES: usize;
    /// How inputs are laid for packed weights.
    const SPLIT: Split;
    type Float: Copy;
    type Int: Copy;

    unsafe fn zero() -> Self::Float;
    unsafe fn load(at: *const f32) -> Self::Float;
    unsafe fn multiply_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    /// The sum of each; added up in the same order whichever place a vector has.
    unsafe fn sums(vectors: [Self::Float; 4]) -> [f32; 4];
    unsafe fn load_int(at: *const i32) -> Self::Int;
    unsafe fn splat(a: f32) -> Self::Float;
    unsafe fn store(at: *mut f32, a: Self::Float);
    /// Loads one bf16 number for each lane.
    unsafe fn load_bf16(at: *const u16) -> Self::Float;
    unsafe fn to_float(a: Self::Int) -> Self::Float;
    /// The lower halves as bf16 numbers.
    unsafe fn lower(a: Self::Int) -> Self::Float;
    /// The upper halves as bf16 numbers.
    unsafe fn upper(a: Self::Int) -> Self::Float;
    /// `sum` and, for each lane, the unsigned integers of `BITS` bits in its word times the inputs at `x`, which lie there as
    /// [`Simd::SPLIT`] says.
    unsafe fn dot_words<const BITS: usize>(sum: Self::Int, words: Self::Int, x: *const i8) -> Self::Int;
    /// `a + (a * b >> SHIFT)`.
    unsafe fn grow<const SHIFT: u32>(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Four numbers, each for a quarter of the lanes.
    unsafe fn quarters(at: *const f32) -> Self::Float;
    /// Repeats four bf16 numbers, each in a quarter.
    unsafe fn quarters_bf16(at: *const u16) -> Self::Float;
    /// The `GROUPS` scales at `at`, each for an equal share of the lanes.
    unsafe fn scales<S: Stored, const GROUPS: usize>(at: *const S) -> Self::Float;
    /// Loads the same for whole numbers.
    unsafe fn zeros<const GROUPS: usize>(at: *const i8) -> Self::Int;
}

/// A number as memory holds it.
pub(crate) trait Stored: Copy {
    fn to_f32(self) -> f32;

    /// # Safety
    /// The processor has the instructions of `V`, and a vector can be read there.
    unsafe fn load<V: Simd>(at: *const Self) -> V::Float;

    /// Repeats four numbers, each in a quarter.
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

/// How inputs, as whole numbers, are laid beside the words of packed weights: vectors of [`PIECE`] bytes, four of them for 4-bit
/// weights, two for 8-bit ones. Lane `i` of each, 32 bits, belongs to word `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// As 16-bit numbers. Of `n` vectors, vector `v` takes the inputs `v` and `v + n` of each word.
    Shorts,
    /// As an upper and a lower byte: `128 * upper + lower`, both signed. First the upper bytes, then the lower ones; of 4-bit
    /// weights the even inputs of a word before the odd ones.
    Bytes,
}

impl Split {
    /// The greatest number that fits.
    pub(crate) fn limit(self) -> i16 {
        match self {
            Split::Shorts => i16::MAX,
            Split::Bytes => 127 << 7,
        }
    }
}

/// Bytes of inputs that lie together: the widest vector.
pub(crate) const PIECE: usize = 64;

/// Instruction sets with code of their own. Whoever has one of these may run its code: they are only made where they are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Found),
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Found),
    /// What every processor has.
    Scalar,
}

/// Made by this module alone, where instructions are found.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found(());

/// AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// AVX-512 F, BW and VL, and what compilers take to be there with them.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

impl Instructions {
    /// The best that this processor has, up to a level.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn up_to(level: SimdLevel) -> Self {
        if level >= SimdLevel::Avx512 && has_avx512() && is_x86_feature_detected!("avx512vnni") {
            Self::Avx512(Found(()))
        } else if level >= SimdLevel::Avx2 && has_avx2() {
            Self::Avx2(Found(()))
        } else {
            Self::Scalar
        }
    }

    /// The best that this processor has, up to a level.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn up_to(_: SimdLevel) -> Self {
        Self::Scalar
    }

    /// How they want inputs laid for packed weights.
    pub(crate) fn split(self) -> Split {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::SPLIT,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::SPLIT,
            Self::Scalar => Scalar::SPLIT,
        }
    }
}
