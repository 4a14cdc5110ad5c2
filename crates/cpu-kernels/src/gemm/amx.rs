//! AMX: blocks of a bf16 GEMM in tile registers.
#![allow(unsafe_code)]

use std::mem::offset_of;

use super::bf16_layout::{Block, PairColumns, Shift, WeightRows};
use super::pairs::{SIDE, TILE};
use super::tiles::Tiles;

/// What the loop of [`amx`] reads from memory, for lack of registers. Strides are in bytes.
#[repr(C)]
struct Loop {
    rows: *const u16,
    columns: *const u32,
    shifts_end: *const Shift,
    steps: usize,
    /// From the upper tile of rows to the lower one.
    lower: usize,
    /// From the first tile of columns to the second.
    second: usize,
    /// From one step's columns to the next one's.
    next_pairs: usize,
    ahead_rows: usize,
    ahead_stride: usize,
    out: *mut f32,
}

/// Computes one block, all in one piece of assembly: compilers know nothing of tiles and might use or move them in between.
///
/// # Safety
/// The conditions of [`super::block`]; the tiles were made for AMX.
#[inline(always)]
pub(super) unsafe fn amx(_: &Tiles, rows: WeightRows, columns: PairColumns, block: &mut Block) {
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
            // A step: first prefetches a cache line of some of the rows to be read next.
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
