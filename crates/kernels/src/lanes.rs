//! Vectors of the processors this crate has code for, behind one trait.
//!
//! `pulp` has no products of 16-bit integers; they are what packed weights are multiplied with.
#![allow(unsafe_code)]
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // Plain code alone needs less of the traits.

use crate::level::SimdLevel;
use crate::weight::widen;

/// A vector of single-precision numbers and one of the same size of integers.
///
/// # Safety
/// The functions may only be called where the processor has the instructions (see [`Instructions`]).
pub(crate) unsafe trait Lanes: Copy {
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
    unsafe fn load_half(at: *const u16) -> Self::Float;
    unsafe fn to_float(a: Self::Int) -> Self::Float;
    /// The lower halves as bf16 numbers.
    unsafe fn lower(a: Self::Int) -> Self::Float;
    /// The upper halves as bf16 numbers.
    unsafe fn upper(a: Self::Int) -> Self::Float;
    /// `sum` and, for each lane, the unsigned integers of `BITS` bits in its word times the inputs at `x`, which lie there as
    /// [`Lanes::SPLIT`] says.
    unsafe fn dot_words<const BITS: usize>(sum: Self::Int, words: Self::Int, x: *const i8) -> Self::Int;
    /// `a + (a * b >> SHIFT)`.
    unsafe fn grow<const SHIFT: u32>(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Four numbers, each for a quarter of the lanes.
    unsafe fn quarters(at: *const f32) -> Self::Float;
    /// Repeats four bf16 numbers, each in a quarter.
    unsafe fn quarters_half(at: *const u16) -> Self::Float;
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
    unsafe fn load<V: Lanes>(at: *const Self) -> V::Float;

    /// Repeats four numbers, each in a quarter.
    ///
    /// # Safety
    /// The processor has the instructions of `V`, and four numbers can be read there.
    unsafe fn quarters<V: Lanes>(at: *const Self) -> V::Float;
}

impl Stored for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn load<V: Lanes>(at: *const f32) -> V::Float {
        // SAFETY: passed on.
        unsafe { V::load(at) }
    }

    #[inline(always)]
    unsafe fn quarters<V: Lanes>(at: *const f32) -> V::Float {
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
    unsafe fn load<V: Lanes>(at: *const u16) -> V::Float {
        // SAFETY: passed on.
        unsafe { V::load_half(at) }
    }

    #[inline(always)]
    unsafe fn quarters<V: Lanes>(at: *const u16) -> V::Float {
        // SAFETY: passed on.
        unsafe { V::quarters_half(at) }
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
    Plain,
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
            Self::Plain
        }
    }

    /// The best that this processor has, up to a level.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn up_to(_: SimdLevel) -> Self {
        Self::Plain
    }

    /// How they want inputs laid for packed weights.
    pub(crate) fn split(self) -> Split {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::SPLIT,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::SPLIT,
            Self::Plain => Plain::SPLIT,
        }
    }
}

/// Arrays: the same computation on any processor.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

const PLAIN: usize = 8;

// SAFETY: needs no instruction beyond the target's own.
unsafe impl Lanes for Plain {
    const LANES: usize = PLAIN;
    const SPLIT: Split = Split::Shorts;
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
    unsafe fn dot_words<const BITS: usize>(mut sum: Self::Int, words: Self::Int, x: *const i8) -> Self::Int {
        let mask = (1 << BITS) - 1;
        for vector in 0..16 / BITS {
            // SAFETY: as in `load`.
            let x = unsafe { x.add(vector * PIECE).cast::<[[i16; 2]; PLAIN]>().read_unaligned() };
            for i in 0..PLAIN {
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
        // SAFETY: the caller promises four numbers; `i * 4 / PLAIN` is at most 3.
        std::array::from_fn(|i| unsafe { *at.add(i * 4 / PLAIN) })
    }

    #[inline(always)]
    unsafe fn quarters_half(at: *const u16) -> Self::Float {
        // SAFETY: as above.
        std::array::from_fn(|i| widen(unsafe { *at.add(i * 4 / PLAIN) }))
    }

    #[inline(always)]
    unsafe fn scales<S: Stored, const GROUPS: usize>(at: *const S) -> Self::Float {
        // SAFETY: the caller promises `GROUPS` scales; `i` is less than `PLAIN`.
        std::array::from_fn(|i| unsafe { *at.add(i * GROUPS / PLAIN) }.to_f32())
    }

    #[inline(always)]
    unsafe fn zeros<const GROUPS: usize>(at: *const i8) -> Self::Int {
        // SAFETY: as in `scales`.
        std::array::from_fn(|i| i32::from(unsafe { *at.add(i * GROUPS / PLAIN) }))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Lanes, PIECE, Split, Stored};

    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    // SAFETY: every function's caller promises AVX-512 F, BW and VNNI; pointers are read as far as the caller promises.
    unsafe impl Lanes for Avx512 {
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
                // Turned and added in quarters, then quarter by quarter.
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
        unsafe fn load_half(at: *const u16) -> __m512 {
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
                    let dot =
                        |sum, even_x, odd_x| _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, even, even_x), odd, odd_x);
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
        unsafe fn quarters_half(at: *const u16) -> __m512 {
            // SAFETY: the caller has the instructions, and what is read can be read there.
            unsafe {
                // All four into every quarter, from where each takes its own into the upper halves: a load and one shuffle.
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

    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    // SAFETY: every function's caller promises AVX2 and FMA; pointers are read as far as the caller promises.
    unsafe impl Lanes for Avx2 {
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
        unsafe fn load_half(at: *const u16) -> __m256 {
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
        unsafe fn quarters_half(at: *const u16) -> __m256 {
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
}
