//! Scalar code: the same computation on arrays, for any processor.
#![allow(unsafe_code)]
// Scalar code alone needs less of the traits.
#![cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]

use super::bf16::widen;
use super::vector::{PIECE, Simd, Split, Stored};

/// Arrays instead of vectors: the same computation on any processor.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

const WIDTH: usize = 8;

// SAFETY: needs no instruction beyond the target's own.
unsafe impl Simd for Scalar {
    const LANES: usize = WIDTH;
    const SPLIT: Split = Split::Shorts;
    type Float = [f32; WIDTH];
    type Int = [i32; WIDTH];

    #[inline(always)]
    unsafe fn zero() -> Self::Float {
        [0.0; WIDTH]
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::Float {
        // SAFETY: the caller promises that `WIDTH` numbers can be read.
        unsafe { at.cast::<Self::Float>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sums(vectors: [Self::Float; 4]) -> [f32; 4] {
        vectors.map(|a| a.iter().sum())
    }

    #[inline(always)]
    unsafe fn load_int(at: *const i32) -> Self::Int {
        // SAFETY: as in `load`.
        unsafe { at.cast::<Self::Int>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn splat(a: f32) -> Self::Float {
        [a; WIDTH]
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: Self::Float) {
        // SAFETY: the caller promises that `WIDTH` numbers can be written.
        unsafe { at.cast::<Self::Float>().write_unaligned(a) };
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u16) -> Self::Float {
        // SAFETY: as in `load`.
        unsafe { at.cast::<[u16; WIDTH]>().read_unaligned() }.map(widen)
    }

    #[inline(always)]
    unsafe fn to_float(a: Self::Int) -> Self::Float {
        a.map(|a| a as f32)
    }

    #[inline(always)]
    unsafe fn lower(a: Self::Int) -> Self::Float {
        a.map(|a| f32::from_bits((a as u32) << 16))
    }

    #[inline(always)]
    unsafe fn upper(a: Self::Int) -> Self::Float {
        a.map(|a| f32::from_bits(a as u32 & 0xFFFF_0000))
    }

    #[inline(always)]
    unsafe fn dot_words<const BITS: usize>(mut sum: Self::Int, words: Self::Int, x: *const i8) -> Self::Int {
        let mask = (1 << BITS) - 1;
        for vector in 0..16 / BITS {
            // SAFETY: as in `load`.
            let x = unsafe { x.add(vector * PIECE).cast::<[[i16; 2]; WIDTH]>().read_unaligned() };
            for i in 0..WIDTH {
                let (low, high) = (words[i] >> (vector * BITS), words[i] >> (16 + vector * BITS));
                let products = (low & mask) * i32::from(x[i][0]) + (high & mask) * i32::from(x[i][1]);
                sum[i] = sum[i].wrapping_add(products);
            }
        }
        sum
    }

    #[inline(always)]
    unsafe fn grow<const SHIFT: u32>(a: Self::Int, b: Self::Int) -> Self::Int {
        std::array::from_fn(|i| a[i].wrapping_add(a[i].wrapping_mul(b[i]) >> SHIFT))
    }

    #[inline(always)]
    unsafe fn quarters(at: *const f32) -> Self::Float {
        // SAFETY: the caller promises four numbers; `i * 4 / WIDTH` is at most 3.
        std::array::from_fn(|i| unsafe { *at.add(i * 4 / WIDTH) })
    }

    #[inline(always)]
    unsafe fn quarters_bf16(at: *const u16) -> Self::Float {
        // SAFETY: as above.
        std::array::from_fn(|i| widen(unsafe { *at.add(i * 4 / WIDTH) }))
    }

    #[inline(always)]
    unsafe fn scales<S: Stored, const GROUPS: usize>(at: *const S) -> Self::Float {
        // SAFETY: the caller promises `GROUPS` scales; `i` is less than `WIDTH`.
        std::array::from_fn(|i| unsafe { *at.add(i * GROUPS / WIDTH) }.to_f32())
    }

    #[inline(always)]
    unsafe fn zeros<const GROUPS: usize>(at: *const i8) -> Self::Int {
        // SAFETY: as in `scales`.
        std::array::from_fn(|i| i32::from(unsafe { *at.add(i * GROUPS / WIDTH) }))
    }
}
