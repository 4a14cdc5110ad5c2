//! Products in half precision: bf16 operands, single-precision sums, on processors that have instructions for it.
//!
//! Sums are computed as `C = A B` with the weights as `A` `[outputs, depth]`, which is how they lie in a file, so that they
//! are read in place; the inputs as `B` `[depth, columns]`, in pairs of neighbouring depths. Both kinds of instructions, AMX
//! tiles and the AVX-512 dot product of pairs, read the same layout.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::sync::OnceLock;

use crate::half_pairs::join;
pub(crate) use crate::half_pairs::{SIDE, TILE};
use crate::memory::{ahead, prefetch_ahead};
use crate::weight::{Packed, Weight, narrow};

/// How bf16 is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HalfInstructions {
    /// Tiles in registers of their own.
    Amx,
    /// AVX-512 with bf16.
    Avx512,
}

impl HalfInstructions {
    /// All that this processor has and the system allows, best first.
    pub(crate) fn available() -> Vec<Self> {
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        let found = [(avx512 && amx_allowed(), Self::Amx), (avx512, Self::Avx512)];
        found.into_iter().filter(|(has, _)| *has).map(|(_, set)| set).collect()
    }

    /// The best of them.
    pub(crate) fn best() -> Option<Self> {
        static BEST: OnceLock<Option<HalfInstructions>> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().first().copied())
    }
}

/// Whether there are tiles, and the system lets this process use them.
fn amx_allowed() -> bool {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        const ARCH_PRCTL: u64 = 158;
        const REQUEST_PERMISSION: u64 = 0x1023;
        const TILE_DATA: u64 = 18;
        if __cpuid_count(7, 0).edx & (AMX_BF16 | AMX_TILE) != AMX_BF16 | AMX_TILE {
            return false;
        }
        let result: i64;
        // SAFETY: asks the system for the use of tile registers; an old system answers with an error. No memory is touched.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") REQUEST_PERMISSION,
                in("rsi") TILE_DATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    false
}

/// The weights' side of a product: rows of bf16 numbers.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) at: *const u16,
    /// Numbers from one row to the next.
    pub(crate) stride: usize,
    /// What will be read next.
    pub(crate) next: Ahead,
}

/// Rows that each step asks for a line of.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) at: *const u16,
    /// Numbers from one row to the next.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
}

impl Rows {
    pub(crate) fn new(at: *const u16, stride: usize) -> Self {
        Self { at, stride, next: Ahead { at, stride, rows: 0 } }
    }
}

/// The inputs' side of a product: where the pairs of a step begin.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub(crate) at: *const u32,
    /// Pairs from one depth to the next.
    pub(crate) stride: usize,
    /// Pairs from the first tile of columns to the second.
    pub(crate) second: usize,
    /// For each round of steps, where it begins: a convolution's taps see the same inputs at other places.
    pub(crate) shifts: &'a [Shift],
    /// Steps in a round; each takes 16 pairs.
    pub(crate) steps: usize,
}

/// Where a round of steps begins, from where the first would: in numbers of the rows, in pairs of the columns.
#[derive(Clone, Copy)]
pub(crate) struct Shift {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Shift {
    /// Of the only round.
    pub(crate) const NONE: Self = Self { rows: 0, columns: 0 };
}

/// `[SIDE, SIDE]` results.
#[repr(align(64))]
pub(crate) struct Block(pub(crate) [f32; SIDE * SIDE]);

/// Computes one block: 32 outputs for 32 columns.
///
/// # Safety
/// The processor has the instructions; from each shift, 32 rows of `steps * 32` numbers and 32 columns of `steps * 16` pairs can be
/// read.
#[inline(always)]
pub(crate) unsafe fn block(instructions: HalfInstructions, rows: Rows, columns: Columns, block: &mut Block) {
    // SAFETY: passed on.
    unsafe {
        match instructions {
            HalfInstructions::Amx => amx(rows, columns, block),
            HalfInstructions::Avx512 => avx512(rows, columns, block),
        }
    }
}

/// Tile registers, set up for this thread while it lives.
pub(crate) struct Tiles(Option<()>);

impl Tiles {
    /// Sets them up if the instructions need it.
    pub(crate) fn new(instructions: HalfInstructions) -> Self {
        Self((instructions == HalfInstructions::Amx).then(|| {
            #[repr(align(64))]
            struct Config([u8; 64]);
            let mut config = Config([0; 64]);
            config.0[0] = 1;
            for tile in 0..8 {
                config.0[16 + 2 * tile] = 64; // bytes of a row
                config.0[48 + tile] = TILE as u8; // rows
            }
            // SAFETY: the process may use tiles, else these would not be its instructions; the configuration is valid.
            unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &config.0, options(nostack, readonly)) };
        }))
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        if self.0.is_some() {
            // SAFETY: as in `new`.
            unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}

/// # Safety
/// As [`block`]; [`Tiles`] are set up.
#[inline(always)]
unsafe fn amx(rows: Rows, columns: Columns, block: &mut Block) {
    let row_bytes = 2 * rows.stride;
    let column_bytes = 4 * columns.stride;
    // SAFETY: the tiles' 16 rows of 64 bytes lie in what the caller promises.
    unsafe {
        std::arch::asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        let mut next = rows.next.at;
        for shift in columns.shifts {
            let mut a = rows.at.add(shift.rows);
            let mut b = columns.at.add(shift.columns);
            for _ in 0..columns.steps {
                for row in 0..rows.next.rows {
                    // Never followed: any address will do.
                    _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(row * rows.next.stride).cast());
                }
                next = next.wrapping_add(2 * TILE);
                std::arch::asm!(
                    "tileloadd tmm4, [{a0} + {a_stride}]",
                    "tileloadd tmm6, [{b0} + {b_stride}]",
                    "tileloadd tmm7, [{b1} + {b_stride}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{a1} + {a_stride}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    a0 = in(reg) a,
                    a1 = in(reg) a.wrapping_add(TILE * rows.stride),
                    b0 = in(reg) b,
                    b1 = in(reg) b.wrapping_add(columns.second),
                    a_stride = in(reg) row_bytes,
                    b_stride = in(reg) column_bytes,
                    options(nostack, readonly),
                );
                a = a.add(2 * TILE);
                b = b.add(TILE * columns.stride);
            }
        }
        let out = block.0.as_mut_ptr();
        std::arch::asm!(
            "tilestored [{c0} + {stride}], tmm0",
            "tilestored [{c1} + {stride}], tmm1",
            "tilestored [{c2} + {stride}], tmm2",
            "tilestored [{c3} + {stride}], tmm3",
            c0 = in(reg) out,
            c1 = in(reg) out.add(TILE),
            c2 = in(reg) out.add(TILE * SIDE),
            c3 = in(reg) out.add(TILE * SIDE + TILE),
            stride = in(reg) 4 * SIDE,
            options(nostack),
        );
    }
}

/// # Safety
/// As [`block`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn avx512(rows: Rows, columns: Columns, block: &mut Block) {
    const HEIGHT: usize = 8;
    for first in (0..SIDE).step_by(HEIGHT) {
        let mut sums = [[_mm512_setzero_ps(); 2]; HEIGHT];
        // SAFETY: rows and columns lie in what the caller promises.
        unsafe {
            for shift in columns.shifts {
                let mut a = rows.at.add(first * rows.stride + shift.rows);
                let mut b = columns.at.add(shift.columns);
                for _ in 0..columns.steps * TILE {
                    let pairs = [b, b.add(columns.second)].map(|b| bf16(_mm512_loadu_si512(b.cast())));
                    for row in 0..HEIGHT {
                        let weight = bf16(_mm512_set1_epi32(a.add(row * rows.stride).cast::<i32>().read_unaligned()));
                        sums[row][0] = _mm512_dpbf16_ps(sums[row][0], weight, pairs[0]);
                        sums[row][1] = _mm512_dpbf16_ps(sums[row][1], weight, pairs[1]);
                    }
                    a = a.add(2);
                    b = b.add(columns.stride);
                }
            }
            let out = block.0.as_mut_ptr().add(first * SIDE);
            for (row, sums) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(out.add(row * SIDE), sums[0]);
                _mm512_storeu_ps(out.add(row * SIDE + TILE), sums[1]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16(a: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without structure.
    unsafe { std::mem::transmute(a) }
}

/// Turns a square of 16 × 16 numbers, whose rows begin every `stride` numbers.
///
/// # Panics
/// If there are fewer.
#[target_feature(enable = "avx512f")]
pub(crate) fn turn_square(matrix: &[f32], stride: usize, out: &mut [f32; TILE * TILE]) {
    assert!(matrix.len() >= (TILE - 1) * stride + TILE, "a square of 16 x 16");
    // SAFETY: the rows lie in the matrix (just asserted), and the square is as large as what is written.
    unsafe {
        let rows: [__m512; TILE] = std::array::from_fn(|row| _mm512_loadu_ps(matrix.as_ptr().add(row * stride)));
        // Pairs of rows, then fours, then the quarters of the vectors.
        let pairs: [__m512; TILE] = std::array::from_fn(|at| {
            let (a, b) = (rows[at / 2 * 2], rows[at / 2 * 2 + 1]);
            if at % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
        });
        let fours: [__m512d; TILE] = std::array::from_fn(|at| {
            let first = at / 4 * 4 + at % 4 / 2;
            let (a, b) = (_mm512_castps_pd(pairs[first]), _mm512_castps_pd(pairs[first + 2]));
            if at % 2 == 0 { _mm512_unpacklo_pd(a, b) } else { _mm512_unpackhi_pd(a, b) }
        });
        let eights: [__m512; TILE] = std::array::from_fn(|at| {
            let column = at % 4;
            let [a, b] = [at / 8 * 8 + column, at / 8 * 8 + 4 + column].map(|at| _mm512_castpd_ps(fours[at]));
            if at / 4 % 2 == 0 { _mm512_shuffle_f32x4::<0x88>(a, b) } else { _mm512_shuffle_f32x4::<0xDD>(a, b) }
        });
        for column in 0..4 {
            for odd in 0..2 {
                let (a, b) = (eights[4 * odd + column], eights[8 + 4 * odd + column]);
                let at = 4 * odd + column;
                _mm512_storeu_ps(out[at * TILE..].as_mut_ptr(), _mm512_shuffle_f32x4::<0x88>(a, b));
                _mm512_storeu_ps(out[(at + 8) * TILE..].as_mut_ptr(), _mm512_shuffle_f32x4::<0xDD>(a, b));
            }
        }
    }
}

/// Rounds numbers to bf16 and lays two neighbours into the place of one; zeros beyond the last.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn round_pairs(x: &[f32], pairs: &mut [f32]) {
    const PIECE: usize = 32;
    let (pieces, rest) = x.as_chunks::<PIECE>();
    let (out, rest_out) = pairs.split_at_mut(pieces.len() * PIECE / 2);
    for (x, out) in pieces.iter().zip(out.as_chunks_mut::<{ PIECE / 2 }>().0) {
        // SAFETY: 32 numbers are read, and as many of half the size are written.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x[PIECE / 2..].as_ptr()));
            out.as_mut_ptr().cast::<__m512bh>().write_unaligned(_mm512_cvtne2ps_pbh(high, low));
        }
    }
    rest_out.fill(0.0);
    rest_out.iter_mut().zip(rest.chunks(2)).for_each(|(out, x)| *out = join(x[0], x.get(1).copied().unwrap_or(0.0)));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bits_of(a: __m512bh) -> __m512i {
    // SAFETY: as in `bf16`.
    unsafe { std::mem::transmute(a) }
}

thread_local! {
    /// Weights that do not lie as a product wants them; kept, since fresh memory costs time.
    static SCRATCH: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
}

/// Calls `with` with rows `first..first + SIDE` of a weight in bf16, `depth` numbers each, zeros beyond what there is.
pub(crate) fn with_rows(
    weight: &Weight,
    [output, input]: [usize; 2],
    first: usize,
    depth: usize,
    with: impl FnOnce(Rows),
) {
    // Beyond a row's end lies the next row, which meets zeros; beyond the last row, nothing that may be read.
    if let Weight::Bf16(values) = weight
        && first + SIDE <= output
        && (first + SIDE - 1) * input + depth <= values.len()
    {
        let at = values[first * input..].as_ptr();
        let next = Ahead { at: at.wrapping_add(SIDE * input), stride: input, rows: 0 };
        return with(Rows { next, ..Rows::new(at, input) });
    }
    let mut scratch = SCRATCH.take();
    // A row beside a multiple of 4096 bytes would share its place in the first cache with all others.
    let stride = depth + 2 * TILE;
    scratch.resize(scratch.len().max(SIDE * stride), 0);
    for (row, out) in (first..first + SIDE).zip(scratch.chunks_exact_mut(stride)) {
        let (out, beyond) = out.split_at_mut(if row < output { input } else { 0 });
        beyond.fill(0);
        if row >= output {
            continue;
        }
        match weight {
            Weight::F32(values) => {
                let values = &values[row * input..][..input];
                out.iter_mut().zip(values).for_each(|(out, value)| *out = narrow(*value));
            }
            Weight::Bf16(values) => out.copy_from_slice(&values[row * input..][..input]),
            // SAFETY: products in half precision run only where there is AVX-512 with bf16.
            Weight::Packed(packed) => unsafe { unpack(packed, row, input, out) },
        }
    }
    with(Rows::new(scratch.as_ptr(), stride));
    SCRATCH.set(scratch);
}

/// One row of packed integers as bf16 numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn unpack(packed: &Packed, row: usize, input: usize, out: &mut [u16]) {
    const PIECE: usize = 32;
    let Packed { bits, group, words, zeros, .. } = *packed;
    let (per_row, groups) = (packed.words_per_row(input), input.div_ceil(group));
    let words = &words[row * per_row..][..per_row];
    let ahead = ahead(size_of_val(words));
    // Pieces that lie in one group; the rest as plain numbers.
    let whole = if group.is_multiple_of(PIECE) || groups == 1 { input / PIECE * PIECE } else { 0 };
    let per_group = group / PIECE;
    let (mut at, mut left) = (row * groups, per_group);
    for (piece, out) in out[..whole].as_chunks_mut::<PIECE>().0.iter_mut().enumerate() {
        if left == 0 {
            (at, left) = (at + 1, per_group);
        }
        left = left.saturating_sub(1);
        if groups == 1 {
            left = 1;
        }
        let zero = (1 << (bits - 1)) + zeros.map_or(0, |zeros| i32::from(zeros[at]));
        let (scale, zero) = (_mm512_set1_ps(packed.scales.at(at)), _mm512_set1_epi32(zero));
        let word = piece * bits;
        prefetch_ahead(words[word..].as_ptr(), ahead);
        let value = |integers| _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(integers, zero)), scale);
        let pair = if bits == 4 {
            // SAFETY: 16 bytes are 32 integers, which the row has.
            let bytes = unsafe { _mm_loadu_si128(words[word..word + 4].as_ptr().cast()) };
            let mask = _mm_set1_epi8(15);
            let (low, high) = (_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask));
            let integers = _mm256_set_m128i(_mm_unpackhi_epi8(low, high), _mm_unpacklo_epi8(low, high));
            // There are only 16 values in a group: each integer takes its own from a table.
            let all = value(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
            let table = bits_of(_mm512_cvtne2ps_pbh(all, all));
            bf16(_mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(integers), table))
        } else {
            // SAFETY: 32 bytes are 32 integers, which the row has.
            let bytes = unsafe {
                let at: *const __m128i = words[word..word + 8].as_ptr().cast();
                [_mm_loadu_si128(at), _mm_loadu_si128(at.add(1))]
            };
            let [low, high] = bytes.map(|bytes| value(_mm512_cvtepu8_epi32(bytes)));
            _mm512_cvtne2ps_pbh(high, low)
        };
        // SAFETY: the piece has room for 32 numbers.
        unsafe { out.as_mut_ptr().cast::<__m512bh>().write_unaligned(pair) };
    }
    let mut values = [0.0; PIECE];
    for start in (whole..input).step_by(PIECE) {
        let values = &mut values[..PIECE.min(input - start)];
        packed.read(row, input, start, values);
        out[start..].iter_mut().zip(values).for_each(|(out, value)| *out = narrow(*value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_is_turned() {
        if HalfInstructions::best().is_none() {
            return;
        }
        let matrix: Vec<f32> = (0..16 * 20).map(|i| i as f32).collect();
        let mut out = [0.0; TILE * TILE];
        // SAFETY: products in half precision run only where there is AVX-512.
        unsafe { turn_square(&matrix, 20, &mut out) };
        assert!((0..TILE * TILE).all(|at| out[at] == matrix[at % TILE * 20 + at / TILE]));
    }
}
