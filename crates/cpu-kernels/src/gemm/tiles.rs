//! The configuration of AMX tile registers, held while blocks are computed.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;

use super::pairs::TILE;
use crate::simd::Bf16Instructions;

/// What bf16 GEMM needs of the thread it runs on: with AMX, the configuration of the tile registers.
///
/// Loading the configuration takes as long as a small block (204 cycles, by Intel's optimization manual), so it is loaded once for
/// all blocks of a task. It belongs to the thread, so this cannot be sent to another. All tasks load the same one, so several may
/// be alive at once (a thread that waits for others may begin another task): the first loads it, the last releases it. No other
/// code of this crate uses tiles, and what tiles hold does not outlive [`super::block`].
pub(crate) struct Tiles {
    pub(super) instructions: Bf16Instructions,
    thread: PhantomData<*mut ()>,
}

thread_local! {
    /// Number of [`Tiles`] alive on this thread that need the configuration.
    static SHAPED: Cell<usize> = const { Cell::new(0) };
}

impl Tiles {
    /// Configures the tile registers if the instructions need it.
    pub(crate) fn new(instructions: Bf16Instructions) -> Self {
        if let Bf16Instructions::Amx(_) = instructions {
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
        if let Bf16Instructions::Amx(_) = self.instructions {
            let alive = SHAPED.get() - 1;
            SHAPED.set(alive);
            if alive == 0 {
                // SAFETY: as in `new`; no `Tiles` of this thread is left that needs the shape.
                unsafe { std::arch::asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
            }
        }
    }
}

/// Configures eight tiles of 16 rows of 64 bytes.
///
/// # Safety
/// The processor has AMX, and the process may use it.
unsafe fn load_shape() {
    #[repr(align(64))]
    struct Shape([u8; 64]);
    let mut shape = Shape([0; 64]);
    shape.0[0] = 1; // The only palette.
    for tile in 0..8 {
        shape.0[16 + 2 * tile] = 64; // Bytes of a row.
        shape.0[48 + tile] = TILE as u8; // Rows.
    }
    // SAFETY: 64 bytes are read, which describe a valid shape: the palette has eight tiles of at most 16 rows of 64 bytes.
    unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &shape, options(nostack, readonly, preserves_flags)) };
}
