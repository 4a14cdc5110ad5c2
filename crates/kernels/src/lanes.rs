//! Vectors of the processors this crate has code for, behind one trait.
//!
//! `pulp` has no products of 16-bit integers; they are what packed weights are multiplied with.
#![allow(unsafe_code)]

use crate::weight::{Scales, widen};

/// A vector of single-precision numbers and one of the same size of integers.
///
/// # Safety
/// The functions may only be called where the processor has the instructions (see [`Instructions`]).
pub(crate) unsafe trait Lanes: Copy {
    /// Numbers in a vector.
    const LANES: usize;
    type Float: Copy;
    type Int: Copy;

    unsafe fn zero() -> Self::Float;
    unsafe fn load(at: *const f32) -> Self::Float;
    unsafe fn multiply_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    unsafe fn sum(a: Self::Float) -> f32;
    unsafe fn load_int(at: *const i32) -> Self::Int;
    unsafe fn splat(a: f32) -> Self::Float;
    unsafe fn store(at: *mut f32, a: Self::Float);
    /// As many bf16 numbers as the vector has lanes.
    unsafe fn load_half(at: *const u16) -> Self::Float;
    unsafe fn to_float(a: Self::Int) -> Self::Float;
    /// The lower halves as bf16 numbers.
    unsafe fn lower(a: Self::Int) -> Self::Float;
    /// The upper halves as bf16 numbers.
    unsafe fn upper(a: Self::Int) -> Self::Float;
    /// Bits `FROM..` of every 16-bit number, as many as `mask` has.
    unsafe fn bits<const FROM: u32>(a: Self::Int, mask: i16) -> Self::Int;
    /// `sum + a₀ b₀ + a₁ b₁` of neighbouring 16-bit numbers.
    unsafe fn dot(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a + (a * b >> SHIFT)`.
    unsafe fn grow<const SHIFT: u32>(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `GROUPS` scales from `index` on, each for an equal share of the lanes.
    unsafe fn scales<const GROUPS: usize>(scales: Scales, index: usize) -> Self::Float;
    /// As [`Lanes::scales`], whole numbers.
    unsafe fn zeros<const GROUPS: usize>(zeros: &[i8], index: usize) -> Self::Int;
}

/// Instruction sets with code of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor has.
    Plain,
}

impl Instructions {
    /// All that this processor has, best first.
    pub(crate) fn available() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni");
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let found = [(avx512, Self::Avx512), (avx2, Self::Avx2), (true, Self::Plain)];
            found.into_iter().filter(|(has, _)| *has).map(|(_, set)| set).collect()
        }
        #[cfg(not(target_arch = "x86_64"))]
        vec![Self::Plain]
    }

    /// The best that this processor has.
    pub(crate) fn best() -> Self {
        static BEST: std::sync::OnceLock<Instructions> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }
}

/// Arrays: the same computation on any processor.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

const PLAIN: usize = 8;

// SAFETY: needs no instruction beyond the target's own.
unsafe impl Lanes for Plain {
    const LANES: usize = PLAIN;
    type Float = [f32; PLAIN];
    type Int = [i32; PLAIN];

    #[inline(always)]
    unsafe fn zero() -> Self::Float {
        [0.0; PLAIN]
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::Float {
        // SAFETY: the caller promises that so many numbers can be read.
        unsafe { at.cast::<Self::Float>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn sum(a: Self::Float) -> f32 {
        a.iter().sum()
    }

    #[inline(always)]
    unsafe fn load_int(at: *const i32) -> Self::Int {
        // SAFETY: as in `load`.
        unsafe { at.cast::<Self::Int>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn splat(a: f32) -> Self::Float {
        [a; PLAIN]
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, a: Self::Float) {
        // SAFETY: the caller promises that so many numbers can be written.
        unsafe { at.cast::<Self::Float>().write_unaligned(a) };
    }

    #[inline(always)]
    unsafe fn load_half(at: *const u16) -> Self::Float {
        // SAFETY: as in `load`.
        unsafe { at.cast::<[u16; PLAIN]>().read_unaligned() }.map(widen)
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
    unsafe fn bits<const FROM: u32>(a: Self::Int, mask: i16) -> Self::Int {
        let mask = i32::from(mask as u16);
        a.map(|a| ((a >> FROM) & mask) | ((((a as u32 >> 16) >> FROM) as i32 & mask) << 16))
    }

    #[inline(always)]
    unsafe fn dot(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int {
        std::array::from_fn(|i| {
            let low = i32::from(a[i] as i16) * i32::from(b[i] as i16);
            let high = (a[i] >> 16) * (b[i] >> 16);
            sum[i].wrapping_add(low).wrapping_add(high)
        })
    }

    #[inline(always)]
    unsafe fn grow<const SHIFT: u32>(a: Self::Int, b: Self::Int) -> Self::Int {
        std::array::from_fn(|i| a[i].wrapping_add(a[i].wrapping_mul(b[i]) >> SHIFT))
    }

    #[inline(always)]
    unsafe fn scales<const GROUPS: usize>(scales: Scales, index: usize) -> Self::Float {
        std::array::from_fn(|i| scales.at(index + i * GROUPS / PLAIN))
    }

    #[inline(always)]
    unsafe fn zeros<const GROUPS: usize>(zeros: &[i8], index: usize) -> Self::Int {
        std::array::from_fn(|i| i32::from(zeros[index + i * GROUPS / PLAIN]))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Lanes, Scales, widen};

    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    // SAFETY: every function's caller promises AVX-512 F, BW and VNNI; pointers are read as far as the caller promises.
    unsafe impl Lanes for Avx512 {
        const LANES: usize = 16;
        type Float = __m512;
        type Int = __m512i;

        #[inline(always)]
        unsafe fn zero() -> __m512 {
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(at: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(at) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn sum(a: __m512) -> f32 {
            unsafe { _mm512_reduce_add_ps(a) }
        }

        #[inline(always)]
        unsafe fn load_int(at: *const i32) -> __m512i {
            unsafe { _mm512_loadu_si512(at.cast()) }
        }

        #[inline(always)]
        unsafe fn splat(a: f32) -> __m512 {
            unsafe { _mm512_set1_ps(a) }
        }

        #[inline(always)]
        unsafe fn store(at: *mut f32, a: __m512) {
            unsafe { _mm512_storeu_ps(at, a) }
        }

        #[inline(always)]
        unsafe fn load_half(at: *const u16) -> __m512 {
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }

        #[inline(always)]
        unsafe fn to_float(a: __m512i) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(a) }
        }

        #[inline(always)]
        unsafe fn lower(a: __m512i) -> __m512 {
            unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(a)) }
        }

        #[inline(always)]
        unsafe fn upper(a: __m512i) -> __m512 {
            unsafe { _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(0xFFFF_0000_u32 as i32))) }
        }

        #[inline(always)]
        unsafe fn bits<const FROM: u32>(a: __m512i, mask: i16) -> __m512i {
            unsafe { _mm512_and_si512(_mm512_srli_epi16::<FROM>(a), _mm512_set1_epi16(mask)) }
        }

        #[inline(always)]
        unsafe fn dot(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_dpwssd_epi32(sum, a, b) }
        }

        #[inline(always)]
        unsafe fn grow<const SHIFT: u32>(a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_add_epi32(a, _mm512_srai_epi32::<SHIFT>(_mm512_mullo_epi32(a, b))) }
        }

        #[inline(always)]
        unsafe fn scales<const GROUPS: usize>(scales: Scales, index: usize) -> __m512 {
            unsafe {
                match (GROUPS, scales) {
                    (4, Scales::Bf16(scales)) => {
                        let four = _mm_loadl_epi64(scales[index..index + 4].as_ptr().cast());
                        let four = _mm512_castsi128_si512(_mm_slli_epi32::<16>(_mm_cvtepu16_epi32(four)));
                        _mm512_permutexvar_ps(lanes_of_four(), _mm512_castsi512_ps(four))
                    }
                    (4, Scales::F32(scales)) => {
                        let four = _mm_loadu_ps(scales[index..index + 4].as_ptr());
                        _mm512_permutexvar_ps(lanes_of_four(), _mm512_castps128_ps512(four))
                    }
                    (2, scales) => {
                        let (low, high) = (_mm512_set1_ps(scales.at(index)), _mm512_set1_ps(scales.at(index + 1)));
                        _mm512_mask_blend_ps(0xFF00, low, high)
                    }
                    (_, scales) => _mm512_set1_ps(scales.at(index)),
                }
            }
        }

        #[inline(always)]
        unsafe fn zeros<const GROUPS: usize>(zeros: &[i8], index: usize) -> __m512i {
            let zero = |lane: usize| i32::from(zeros[index + lane * GROUPS / 16]);
            unsafe {
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

    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    // SAFETY: every function's caller promises AVX2 and FMA; pointers are read as far as the caller promises.
    unsafe impl Lanes for Avx2 {
        const LANES: usize = 8;
        type Float = __m256;
        type Int = __m256i;

        #[inline(always)]
        unsafe fn zero() -> __m256 {
            unsafe { _mm256_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(at: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(at) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn sum(a: __m256) -> f32 {
            let mut lanes = [0.0; 8];
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), a) };
            lanes.iter().sum()
        }

        #[inline(always)]
        unsafe fn load_int(at: *const i32) -> __m256i {
            unsafe { _mm256_loadu_si256(at.cast()) }
        }

        #[inline(always)]
        unsafe fn splat(a: f32) -> __m256 {
            unsafe { _mm256_set1_ps(a) }
        }

        #[inline(always)]
        unsafe fn store(at: *mut f32, a: __m256) {
            unsafe { _mm256_storeu_ps(at, a) }
        }

        #[inline(always)]
        unsafe fn load_half(at: *const u16) -> __m256 {
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }

        #[inline(always)]
        unsafe fn to_float(a: __m256i) -> __m256 {
            unsafe { _mm256_cvtepi32_ps(a) }
        }

        #[inline(always)]
        unsafe fn lower(a: __m256i) -> __m256 {
            unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)) }
        }

        #[inline(always)]
        unsafe fn upper(a: __m256i) -> __m256 {
            unsafe { _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32(0xFFFF_0000_u32 as i32))) }
        }

        #[inline(always)]
        unsafe fn bits<const FROM: u32>(a: __m256i, mask: i16) -> __m256i {
            unsafe {
                let shifted = _mm256_srl_epi16(a, _mm_cvtsi32_si128(FROM as i32));
                _mm256_and_si256(shifted, _mm256_set1_epi16(mask))
            }
        }

        #[inline(always)]
        unsafe fn dot(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
        }

        #[inline(always)]
        unsafe fn grow<const SHIFT: u32>(a: __m256i, b: __m256i) -> __m256i {
            unsafe {
                let product = _mm256_mullo_epi32(a, b);
                _mm256_add_epi32(a, _mm256_sra_epi32(product, _mm_cvtsi32_si128(SHIFT as i32)))
            }
        }

        #[inline(always)]
        unsafe fn scales<const GROUPS: usize>(scales: Scales, index: usize) -> __m256 {
            let scale = |lane: usize| match scales {
                Scales::F32(scales) => scales[index + lane * GROUPS / 8],
                Scales::Bf16(scales) => widen(scales[index + lane * GROUPS / 8]),
            };
            unsafe {
                match GROUPS {
                    1 => _mm256_set1_ps(scale(0)),
                    2 => _mm256_set_m128(_mm_set1_ps(scale(4)), _mm_set1_ps(scale(0))),
                    _ => {
                        let pair = |lane| _mm_setr_ps(scale(lane), scale(lane), scale(lane + 2), scale(lane + 2));
                        _mm256_set_m128(pair(4), pair(0))
                    }
                }
            }
        }

        #[inline(always)]
        unsafe fn zeros<const GROUPS: usize>(zeros: &[i8], index: usize) -> __m256i {
            let zero = |lane: usize| i32::from(zeros[index + lane * GROUPS / 8]);
            unsafe { _mm256_setr_epi32(zero(0), zero(1), zero(2), zero(3), zero(4), zero(5), zero(6), zero(7)) }
        }
    }
}
