//! Products in half precision: bf16 operands, single-precision sums, on processors that have instructions for it.
//!
//! Sums are computed as `C = A B` with the weights as `A` `[outputs, depth]`, which is how they lie in a file, so that they
//! are read in place; the inputs as `B` `[depth, columns]`, in pairs of neighbouring depths. Both kinds of instructions, AMX
//! tiles and the AVX-512 dot product of pairs, read the same layout.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::mem::offset_of;
use std::sync::OnceLock;

use crate::half_pairs::join;
pub(crate) use crate::half_pairs::{SIDE, TILE};
use crate::lanes::has_avx512;
use crate::level::SimdLevel;
use crate::memory::{ahead, prefetch_ahead};
use crate::weight::{Matrix, Packed, Weight, narrow};

/// How bf16 is multiplied. Whoever has one of these may run its code: they are only made where the instructions are found. AMX is
/// only used where there is AVX-512 with bf16 as well, which rounds its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HalfInstructions {
    /// Tiles in registers of their own.
    Amx(Found),
    /// AVX-512 with bf16.
    Avx512(Found),
}

/// Made by this module alone, where instructions are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found(());

impl HalfInstructions {
    /// The best that this processor has and the system allows, up to a level.
    pub(crate) fn up_to(level: SimdLevel) -> Option<Self> {
        if level >= SimdLevel::Amx && Self::has_amx() {
            Some(Self::Amx(Found(())))
        } else if level >= SimdLevel::Avx512 && Self::has_bf16() {
            Some(Self::Avx512(Found(())))
        } else {
            None
        }
    }

    /// All features that functions of half precision are compiled with.
    fn has_bf16() -> bool {
        has_avx512() && is_x86_feature_detected!("avx512bf16")
    }

    pub(crate) fn has_amx() -> bool {
        static HAS: OnceLock<bool> = OnceLock::new();
        *HAS.get_or_init(|| Self::has_bf16() && amx_allowed())
    }
}

/// Whether there are tiles, and the system lets this process use them.
fn amx_allowed() -> bool {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        // Leaf 7 is there: AVX-512, which is asked for first, is told there.
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        const ARCH_PRCTL: u64 = 158;
        const REQUEST_PERMISSION: u64 = 0x1023;
        const TILE_DATA: u64 = 18;
        if __cpuid_count(7, 0).edx & (AMX_BF16 | AMX_TILE) != AMX_BF16 | AMX_TILE {
            return false;
        }
        let result: i64;
        // SAFETY: asks the system for the use of tile registers; an old system answers with an error. No memory is touched, and
        // the registers that a system call changes are declared.
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
#[repr(C)]
pub(crate) struct Shift {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Shift {
    /// The place of the only round.
    pub(crate) const NONE: Self = Self { rows: 0, columns: 0 };
}

/// `[SIDE, SIDE]` results.
#[repr(align(64))]
pub(crate) struct Block(pub(crate) [f32; SIDE * SIDE]);

/// Computes one block: 32 outputs for 32 columns.
///
/// # Safety
/// From each shift, 32 rows of `steps * 32` numbers and 32 columns of `steps * 16` pairs can be read: 16 columns side by side, and
/// 16 more from `second` on.
#[inline(always)]
pub(crate) unsafe fn block(tiles: &Tiles, rows: Rows, columns: Columns, block: &mut Block) {
    // SAFETY: the tiles were made for instructions that were found; what can be read is passed on.
    unsafe {
        match tiles.instructions {
            HalfInstructions::Amx(_) => amx(tiles, rows, columns, block),
            HalfInstructions::Avx512(_) => avx512(rows, columns, block),
        }
    }
}

/// What products in half precision need of the thread they run on: with AMX, the shape of the tile registers.
///
/// Loading the shape takes as long as a small block (204 cycles, by Intel's optimization manual), so it is loaded once for all
/// blocks of a task. It is a setting of the thread, so this cannot be sent to another. All tasks set the same, so several may be
/// alive at once (a thread that waits for others may begin another task): the first sets it, the last gives it up. No other code
/// of this crate uses tiles, and what tiles hold does not outlive [`block`].
pub(crate) struct Tiles {
    instructions: HalfInstructions,
    thread: PhantomData<*mut ()>,
}

thread_local! {
    /// [`Tiles`] of this thread that are alive and need the shape.
    static SHAPED: Cell<usize> = const { Cell::new(0) };
}

impl Tiles {
    /// Sets tile registers up if the instructions need it.
    pub(crate) fn new(instructions: HalfInstructions) -> Self {
        if let HalfInstructions::Amx(_) = instructions {
            let alive = SHAPED.get();
            SHAPED.set(alive + 1);
            if alive == 0 {
                // SAFETY: the process may use tiles, else these would not be its instructions.
                unsafe { load_shape() };
            }
        }
        Self { instructions, thread: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        if let HalfInstructions::Amx(_) = self.instructions {
            let alive = SHAPED.get() - 1;
            SHAPED.set(alive);
            if alive == 0 {
                // SAFETY: as in `new`; no `Tiles` of this thread is left that needs the shape.
                unsafe { std::arch::asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
            }
        }
    }
}

/// Eight tiles of 16 rows of 64 bytes.
///
/// # Safety
/// The processor has AMX, and the process may use it.
unsafe fn load_shape() {
    #[repr(align(64))]
    struct Shape([u8; 64]);
    let mut shape = Shape([0; 64]);
    shape.0[0] = 1; // the only palette
    for tile in 0..8 {
        shape.0[16 + 2 * tile] = 64; // bytes of a row
        shape.0[48 + tile] = TILE as u8; // rows
    }
    // SAFETY: 64 bytes are read, which describe a valid shape: the palette has eight tiles of at most 16 rows of 64 bytes.
    unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &shape, options(nostack, readonly, preserves_flags)) };
}

/// What the loop of [`amx`] reads from memory, having too few registers. Strides are in bytes.
#[repr(C)]
struct Loop {
    rows: *const u16,
    columns: *const u32,
    shifts_end: *const Shift,
    steps: usize,
    /// From a tile of rows to the one below.
    lower: usize,
    /// From a tile of columns to the second.
    second: usize,
    /// From a step's columns to the next one's.
    next_pairs: usize,
    ahead_rows: usize,
    ahead_stride: usize,
    out: *mut f32,
}

/// All in one block of assembly: compilers know nothing of tiles, which they might otherwise use or move between two blocks.
///
/// # Safety
/// As [`block`]; the tiles were made for AMX.
#[inline(always)]
unsafe fn amx(_: &Tiles, rows: Rows, columns: Columns, block: &mut Block) {
    const { assert!(TILE == 16 && SIDE == 32, "the shape of tiles") };
    if columns.steps == 0 || columns.shifts.is_empty() {
        return block.0.fill(0.0);
    }
    let shifts = columns.shifts.as_ptr_range();
    let values = Loop {
        rows: rows.at,
        columns: columns.at,
        shifts_end: shifts.end,
        steps: columns.steps,
        lower: 2 * TILE * rows.stride,
        second: 4 * columns.second,
        next_pairs: 4 * TILE * columns.stride,
        ahead_rows: rows.next.rows,
        ahead_stride: 2 * rows.next.stride,
        out: block.0.as_mut_ptr(),
    };
    // SAFETY: the tiles' 16 rows of 64 bytes lie in what the caller promises, the results in the block, whose rows are 128 bytes;
    // `values` and the shifts are read within their bounds, as there is at least one shift and one step. Prefetching may be given
    // any address. Tiles are set up while `Tiles` lives; all registers that change are declared.
    unsafe {
        std::arch::asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            // A round of steps: where its rows and columns begin.
            "2:",
            "mov {a}, [{shift} + {shift_rows}]",
            "mov {b}, [{shift} + {shift_columns}]",
            "add {shift}, {shift_size}",
            "shl {a}, 1",
            "shl {b}, 2",
            "add {a}, [{values} + {rows}]",
            "add {b}, [{values} + {columns}]",
            "mov {step}, [{values} + {steps}]",
            // A step: first what will be read next is asked for, a line of some rows.
            "3:",
            "mov {left}, [{values} + {ahead_rows}]",
            "mov {at}, {ahead}",
            "test {left}, {left}",
            "jz 5f",
            "4:",
            "prefetcht1 [{at}]",
            "add {at}, [{values} + {ahead_stride}]",
            "dec {left}",
            "jnz 4b",
            "5:",
            "add {ahead}, 64",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tileloadd tmm6, [{b} + {b_stride}]",
            "mov {at}, {b}",
            "add {at}, [{values} + {second}]",
            "tileloadd tmm7, [{at} + {b_stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "mov {at}, {a}",
            "add {at}, [{values} + {lower}]",
            "tileloadd tmm5, [{at} + {a_stride}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {b}, [{values} + {next_pairs}]",
            "dec {step}",
            "jnz 3b",
            "cmp {shift}, [{values} + {shifts_end}]",
            "jne 2b",
            "mov {at}, [{values} + {out}]",
            "mov {left}, 128",
            "tilestored [{at} + {left}], tmm0",
            "tilestored [{at} + {left} + 64], tmm1",
            "tilestored [{at} + {left} + 2048], tmm2",
            "tilestored [{at} + {left} + 2112], tmm3",
            values = in(reg) &values,
            shift = inout(reg) shifts.start => _,
            ahead = inout(reg) rows.next.at => _,
            a_stride = in(reg) 2 * rows.stride,
            b_stride = in(reg) 4 * columns.stride,
            a = out(reg) _,
            b = out(reg) _,
            step = out(reg) _,
            left = out(reg) _,
            at = out(reg) _,
            shift_rows = const offset_of!(Shift, rows),
            shift_columns = const offset_of!(Shift, columns),
            shift_size = const size_of::<Shift>(),
            rows = const offset_of!(Loop, rows),
            columns = const offset_of!(Loop, columns),
            shifts_end = const offset_of!(Loop, shifts_end),
            steps = const offset_of!(Loop, steps),
            lower = const offset_of!(Loop, lower),
            second = const offset_of!(Loop, second),
            next_pairs = const offset_of!(Loop, next_pairs),
            ahead_rows = const offset_of!(Loop, ahead_rows),
            ahead_stride = const offset_of!(Loop, ahead_stride),
            out = const offset_of!(Loop, out),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
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
        // SAFETY: rows and columns lie in what the caller promises; 8 rows of 32 results from `first` on lie in the block.
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
                    // Behind the last pair there need be no memory.
                    a = a.wrapping_add(2);
                    b = b.wrapping_add(columns.stride);
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
    assert!(stride <= matrix.len() && matrix.len() >= (TILE - 1) * stride + TILE, "a square of 16 x 16");
    // SAFETY: the rows lie in the matrix (just asserted); what is written is sliced off the square, 16 numbers before its end.
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
        // SAFETY: 32 numbers are read, and as many of half the size are written to the place of 16; arrays of these sizes.
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
    // SAFETY: both are 512 bits without structure.
    unsafe { std::mem::transmute(a) }
}

thread_local! {
    /// Weights that do not lie as a product wants them; kept, since fresh memory costs time.
    static SCRATCH: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
}

/// Calls `with` with rows `first..first + SIDE` of a weight in bf16, `depth` numbers each, zeros beyond what there is.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn with_rows(matrix: &Matrix, first: usize, depth: usize, with: impl FnOnce(Rows)) {
    let [output, input] = matrix.shape();
    assert!(input <= depth, "{depth} numbers of a row of {input}");
    // Beyond a row's end lies the next row, which meets zeros; beyond the last row, nothing that may be read.
    if let Weight::Bf16(values) = matrix.weight()
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
        match matrix.weight() {
            Weight::F32(values) => {
                let values = &values[row * input..][..input];
                out.iter_mut().zip(values).for_each(|(out, value)| *out = narrow(*value));
            }
            Weight::Bf16(values) => out.copy_from_slice(&values[row * input..][..input]),
            Weight::Packed(packed) => unpack(packed, row, input, out),
        }
    }
    with(Rows::new(scratch.as_ptr(), stride));
    SCRATCH.set(scratch);
}

/// One row of packed integers as bf16 numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
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

    fn instructions() -> Option<HalfInstructions> {
        crate::level::Processor::best().half
    }

    #[test]
    fn a_square_is_turned() {
        if instructions().is_none() {
            return;
        }
        let matrix: Vec<f32> = (0..16 * 20).map(|i| i as f32).collect();
        let mut out = [0.0; TILE * TILE];
        // SAFETY: products in half precision run only where there is AVX-512.
        unsafe { turn_square(&matrix, 20, &mut out) };
        assert!((0..TILE * TILE).all(|at| out[at] == matrix[at % TILE * 20 + at / TILE]));
    }

    #[test]
    fn a_square_whose_size_wraps_is_a_bug() {
        if instructions().is_none() {
            return;
        }
        // SAFETY: just asked for. 15 strides and 16 numbers are 0 where sizes wrap.
        let turn = || unsafe { turn_square(&[0.0; 16], 0x1111_1111_1111_1110, &mut [0.0; TILE * TILE]) };
        assert!(std::panic::catch_unwind(turn).is_err());
    }

    /// Blocks of every kind of instructions against sums in f64.
    #[test]
    fn a_block_over_several_shifts_is_right() {
        let (stride, width, steps) = (2 * 32 + 6, 57, 2);
        let number = |at: usize, seed: usize| ((at * 7919 + seed) % 1009) as f32 / 504.5 - 1.0;
        let rows: Vec<u16> = (0..SIDE * stride).map(|at| narrow(number(at, 1))).collect();
        let pairs: Vec<f32> = (0..32 * width).map(|at| join(number(at, 2), number(at, 3))).collect();
        let shifts = [Shift { rows: 6, columns: 9 }, Shift { rows: 0, columns: 0 }, Shift { rows: 4, columns: 25 }];
        let (weight, half) = (|row, at| crate::weight::widen(rows[row * stride + at]), |bits: u32| bits as u16);
        let value = |depth: usize, column: usize| {
            let bits = pairs[depth / 2 * width + column].to_bits();
            crate::weight::widen(if depth.is_multiple_of(2) { half(bits) } else { half(bits >> 16) })
        };
        let expected = |row: usize, column: usize| -> f64 {
            let column = column % TILE + column / TILE * 16;
            let terms = shifts.iter().flat_map(|shift| (0..32 * steps).map(move |at| (shift, at)));
            let term = |(shift, at): (&Shift, usize)| {
                f64::from(weight(row, shift.rows + at)) * f64::from(value(at, shift.columns + column))
            };
            terms.map(term).sum()
        };
        for (processor, instructions) in crate::level::Processor::halves() {
            // A thread that waits for others may begin another task while it has tiles.
            let (tiles, other) = (Tiles::new(instructions), Tiles::new(instructions));
            drop(other);
            for ahead in [0, 3] {
                let next = Ahead { at: rows.as_ptr(), stride, rows: ahead };
                let rows = Rows { next, ..Rows::new(rows.as_ptr(), stride) };
                let at = pairs.as_ptr().cast();
                let columns = Columns { at, stride: width, second: 16, shifts: &shifts, steps };
                let mut results = Block([f32::NAN; SIDE * SIDE]);
                // SAFETY: a row has `stride` numbers, at least the greatest shift and 2 steps of 32; 32 rows of pairs have at least
                // the greatest shift and 32 columns.
                unsafe { block(&tiles, rows, columns, &mut results) };
                for (at, result) in results.0.iter().enumerate() {
                    let expected = expected(at / SIDE, at % SIDE);
                    assert!((expected - f64::from(*result)).abs() < 1e-4, "{processor:?}: {result} for {expected}");
                }
            }
            // Without a step, nothing is read.
            let columns = Columns { at: std::ptr::null(), stride: 0, second: 0, shifts: &shifts, steps: 0 };
            let mut results = Block([f32::NAN; SIDE * SIDE]);
            // SAFETY: as said.
            unsafe { block(&tiles, Rows::new(rows.as_ptr(), stride), columns, &mut results) };
            assert!(results.0.iter().all(|result| *result == 0.0));
        }
    }
}
