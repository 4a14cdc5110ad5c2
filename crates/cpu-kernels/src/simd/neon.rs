//! NEON, the vectors of 64-bit Arm.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use super::vector::{PIECE, Simd, Split, Stored};

#[derive(Clone, Copy)]
pub(crate) struct Neon;

// SAFETY: every function's caller promises NEON; pointers are read as far as the caller promises.
unsafe impl Simd for Neon {
    const LANES: usize = 4;
    const SPLIT: Split = Split::Shorts;
    type Float = float32x4_t;
    type Int = int32x4_t;

    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        // SAFETY: the caller has the instructions.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> float32x4_t {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe { vld1q_f32(at) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: the caller has the instructions.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the caller has the instructions.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [float32x4_t; 4]) -> [f32; 4] {
        // SAFETY: the caller has the instructions.
        unsafe {
            let four = vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
            let mut sums = [0.0; 4];
            vst1q_f32(sums.as_mut_ptr(), four);
            sums
        }
    }

    #[inline(always)]
    unsafe fn load_int(at: *const i32) -> int32x4_t {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe { vld1q_s32(at) }
    }

    #[inline(always)]
    unsafe fn splat(a: f32) -> float32x4_t {
        // SAFETY: the caller has the instructions.
        unsafe { vdupq_n_f32(a) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: float32x4_t) {
        // SAFETY: the caller has the instructions, and a vector can be written there.
        unsafe { vst1q_f32(at, a) };
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u16) -> float32x4_t {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(at)))) }
    }

    #[inline(always)]
    unsafe fn to_float(a: int32x4_t) -> float32x4_t {
        // SAFETY: the caller has the instructions.
        unsafe { vcvtq_f32_s32(a) }
    }

    #[inline(always)]
    unsafe fn lower(a: int32x4_t) -> float32x4_t {
        // SAFETY: the caller has the instructions.
        unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<16>(a)) }
    }

    #[inline(always)]
    unsafe fn upper(a: int32x4_t) -> float32x4_t {
        // SAFETY: the caller has the instructions.
        unsafe { vreinterpretq_f32_s32(vandq_s32(a, vdupq_n_s32(0xFFFF_0000_u32 as i32))) }
    }

    #[inline(always)]
    unsafe fn dot_words<const BITS: usize>(sum: int32x4_t, words: int32x4_t, x: *const i8) -> int32x4_t {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            let (words, mask) = (vreinterpretq_u16_s32(words), vdupq_n_u16((1 << BITS) - 1));
            // The products of the first two words, and of the last two. Those of one word are neighbours, added at the end.
            let (mut first, mut last) = (vdupq_n_s32(0), vdupq_n_s32(0));
            for vector in 0..16 / BITS {
                let x = vld1q_s16(x.add(vector * PIECE).cast());
                // A negative count shifts to the right, which has no instruction of its own for a count that varies.
                let shifted = vshlq_u16(words, vdupq_n_s16(-((vector * BITS) as i16)));
                let values = vreinterpretq_s16_u16(vandq_u16(shifted, mask));
                first = vmlal_s16(first, vget_low_s16(values), vget_low_s16(x));
                last = vmlal_high_s16(last, values, x);
            }
            vaddq_s32(sum, vpaddq_s32(first, last))
        }
    }

    #[inline(always)]
    unsafe fn grow<const SHIFT: u32>(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has the instructions.
        unsafe { vaddq_s32(a, vshlq_s32(vmulq_s32(a, b), vdupq_n_s32(-(SHIFT as i32)))) }
    }

    #[inline(always)]
    unsafe fn quarters(at: *const f32) -> float32x4_t {
        // SAFETY: passed on: a quarter of the lanes is one.
        unsafe { Self::load(at) }
    }

    #[inline(always)]
    unsafe fn quarters_bf16(at: *const u16) -> float32x4_t {
        // SAFETY: as in `quarters`.
        unsafe { Self::load_bf16(at) }
    }

    #[inline(always)]
    unsafe fn scales<S: Stored, const GROUPS: usize>(at: *const S) -> float32x4_t {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            match GROUPS {
                1 => vdupq_n_f32((*at).to_f32()),
                2 => vcombine_f32(vdup_n_f32((*at).to_f32()), vdup_n_f32((*at.add(1)).to_f32())),
                _ => S::quarters::<Self>(at),
            }
        }
    }

    #[inline(always)]
    unsafe fn zeros<const GROUPS: usize>(at: *const i8) -> int32x4_t {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            let zero = |lane: usize| i32::from(*at.add(lane * GROUPS / 4));
            vld1q_s32([zero(0), zero(1), zero(2), zero(3)].as_ptr())
        }
    }
}
