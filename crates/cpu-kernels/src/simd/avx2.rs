//! AVX2 with FMA.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::vector::{PIECE, Simd, Split, Stored};

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

// SAFETY: every function's caller promises AVX2 and FMA; pointers are read as far as the caller promises.
unsafe impl Simd for Avx2 {
    const LANES: usize = 8;
    const SPLIT: Split = Split::Shorts;
    type Float = __m256;
    type Int = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m256 {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        // SAFETY: the caller has the instructions.
        unsafe {
            let four = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let four = _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps::<1>(four));
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), four);
            sums
        }
    }

    #[inline(always)]
    unsafe fn load_int(at: *const i32) -> __m256i {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }

    #[inline(always)]
    unsafe fn splat(a: f32) -> __m256 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm256_set1_ps(a) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: __m256) {
        // SAFETY: the caller has the instructions, and a vector can be written there.
        unsafe { _mm256_storeu_ps(at, a) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u16) -> __m256 {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn to_float(a: __m256i) -> __m256 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm256_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn lower(a: __m256i) -> __m256 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)) }
    }

    #[inline(always)]
    unsafe fn upper(a: __m256i) -> __m256 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32(0xFFFF_0000_u32 as i32))) }
    }

    #[inline(always)]
    unsafe fn dot_words<const BITS: usize>(mut sum: __m256i, words: __m256i, x: *const i8) -> __m256i {
        let mask = (1 << BITS) - 1;
        for vector in 0..16 / BITS {
            // SAFETY: the caller has the instructions, and what is read can be read there.
            unsafe {
                let x = _mm256_loadu_si256(x.add(vector * PIECE).cast());
                let shifted = _mm256_srl_epi16(words, _mm_cvtsi32_si128((vector * BITS) as i32));
                let values = _mm256_and_si256(shifted, _mm256_set1_epi16(mask));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(values, x));
            }
        }
        sum
    }

    #[inline(always)]
    unsafe fn grow<const SHIFT: u32>(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has the instructions.
        unsafe {
            let product = _mm256_mullo_epi32(a, b);
            _mm256_add_epi32(a, _mm256_sra_epi32(product, _mm_cvtsi32_si128(SHIFT as i32)))
        }
    }

    #[inline(always)]
    unsafe fn quarters(at: *const f32) -> __m256 {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            let pair = |at: *const f32| _mm_setr_ps(*at, *at, *at.add(1), *at.add(1));
            _mm256_set_m128(pair(at.add(2)), pair(at))
        }
    }

    #[inline(always)]
    unsafe fn quarters_bf16(at: *const u16) -> __m256 {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            let four = [(*at).to_f32(), (*at.add(1)).to_f32(), (*at.add(2)).to_f32(), (*at.add(3)).to_f32()];
            Self::quarters(four.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn scales<S: Stored, const GROUPS: usize>(at: *const S) -> __m256 {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            match GROUPS {
                1 => _mm256_set1_ps((*at).to_f32()),
                2 => _mm256_set_m128(_mm_set1_ps((*at.add(1)).to_f32()), _mm_set1_ps((*at).to_f32())),
                _ => S::quarters::<Self>(at),
            }
        }
    }

    #[inline(always)]
    unsafe fn zeros<const GROUPS: usize>(at: *const i8) -> __m256i {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            let zero = |lane: usize| i32::from(*at.add(lane * GROUPS / 8));
            _mm256_setr_epi32(zero(0), zero(1), zero(2), zero(3), zero(4), zero(5), zero(6), zero(7))
        }
    }
}
