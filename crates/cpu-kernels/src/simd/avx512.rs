//! AVX-512 with VNNI.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::vector::{PIECE, Simd, Split, Stored};

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

// SAFETY: every function's caller promises AVX-512 F, BW and VNNI; pointers are read as far as the caller promises.
unsafe impl Simd for Avx512 {
    const LANES: usize = 16;
    const SPLIT: Split = Split::Bytes;
    type Float = __m512;
    type Int = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m512 {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        // SAFETY: the caller has the instructions.
        unsafe {
            // Transposed and added within each 128-bit quarter, then across the quarters.
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
            let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
            let four = _mm512_add_ps(low, _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
            let four = _mm512_add_ps(four, _mm512_shuffle_f32x4::<0b01_00_11_10>(four, four));
            let four = _mm512_add_ps(four, _mm512_shuffle_f32x4::<0b10_11_00_01>(four, four));
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(four));
            sums
        }
    }

    #[inline(always)]
    unsafe fn load_int(at: *const i32) -> __m512i {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn splat(a: f32) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_set1_ps(a) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: __m512) {
        // SAFETY: the caller has the instructions, and a vector can be written there.
        unsafe { _mm512_storeu_ps(at, a) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u16) -> __m512 {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn to_float(a: __m512i) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn lower(a: __m512i) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(a)) }
    }

    #[inline(always)]
    unsafe fn upper(a: __m512i) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(0xFFFF_0000_u32 as i32))) }
    }

    #[inline(always)]
    unsafe fn dot_words<const BITS: usize>(sum: __m512i, words: __m512i, x: *const i8) -> __m512i {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            let x = |vector: usize| _mm512_loadu_si512(x.add(vector * PIECE).cast());
            let none = _mm512_setzero_si512();
            let [upper, lower] = if BITS == 4 {
                let mask = _mm512_set1_epi8(15);
                let even = _mm512_and_si512(words, mask);
                let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(words), mask);
                let dot = |sum, even_x, odd_x| _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, even, even_x), odd, odd_x);
                [dot(none, x(0), x(1)), dot(sum, x(2), x(3))]
            } else {
                [_mm512_dpbusd_epi32(none, words, x(0)), _mm512_dpbusd_epi32(sum, words, x(1))]
            };
            _mm512_add_epi32(_mm512_slli_epi32::<7>(upper), lower)
        }
    }

    #[inline(always)]
    unsafe fn grow<const SHIFT: u32>(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_add_epi32(a, _mm512_srai_epi32::<SHIFT>(_mm512_mullo_epi32(a, b))) }
    }

    #[inline(always)]
    unsafe fn quarters(at: *const f32) -> __m512 {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe { _mm512_permutexvar_ps(lanes_of_four(), _mm512_castps128_ps512(_mm_loadu_ps(at))) }
    }

    #[inline(always)]
    unsafe fn quarters_bf16(at: *const u16) -> __m512 {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            // Broadcasts all four to every quarter, where one shuffle moves each quarter's own into the upper halves of its lanes.
            let four = _mm512_set1_epi64(at.cast::<i64>().read_unaligned());
            let place = |quarter: i32| 0x8080 | (2 * quarter) << 16 | (2 * quarter + 1) << 24;
            let [a, b, c, d] = [place(0), place(1), place(2), place(3)];
            let places = _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
            _mm512_castsi512_ps(_mm512_shuffle_epi8(four, places))
        }
    }

    #[inline(always)]
    unsafe fn scales<S: Stored, const GROUPS: usize>(at: *const S) -> __m512 {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            if GROUPS == 4 {
                return S::quarters::<Self>(at);
            }
            let low = _mm512_set1_ps((*at).to_f32());
            if GROUPS == 1 { low } else { _mm512_mask_blend_ps(0xFF00, low, _mm512_set1_ps((*at.add(1)).to_f32())) }
        }
    }

    #[inline(always)]
    unsafe fn zeros<const GROUPS: usize>(at: *const i8) -> __m512i {
        // SAFETY: the caller has the instructions, and what is read can be read there.
        unsafe {
            let zero = |lane: usize| i32::from(*at.add(lane * GROUPS / 16));
            let quarters = [zero(0), zero(4), zero(8), zero(12)];
            let four = _mm_loadu_si128(quarters.as_ptr().cast());
            _mm512_permutexvar_epi32(lanes_of_four(), _mm512_castsi128_si512(four))
        }
    }
}

#[inline(always)]
unsafe fn lanes_of_four() -> __m512i {
    // SAFETY: the caller promises AVX-512.
    unsafe { _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3) }
}
