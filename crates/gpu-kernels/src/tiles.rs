//! Products of tiles: the units of a cube bring rows of two matrices into shared memory, a few numbers of each at a time, and multiply
//! every row of one with every row of the other.
//!
//! Each product is added up by one unit, from the first number of the rows to the last, whatever else is in the tile.

use cubecl::prelude::*;

/// Numbers of a row that are in shared memory at a time.
pub(crate) const NUMBERS: usize = 16;

/// How the units of a cube share a tile. Kernels are compiled for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tile {
    /// Rows of the left and of the right matrix.
    pub rows: [usize; 2],
    /// Rows of each that a unit multiplies with one another.
    pub of_unit: [usize; 2],
    /// Loads of a row that are in shared memory at a time.
    pub depth: usize,
}

impl Tile {
    /// A tile whose loads have `by` numbers.
    pub(crate) fn new(rows: [usize; 2], of_unit: [usize; 2], by: usize) -> Self {
        Self { rows, of_unit, depth: NUMBERS / by }
    }

    /// Units that share the left rows; each has the same right rows.
    pub(crate) fn groups(&self) -> usize {
        self.rows[0] / self.of_unit[0]
    }

    /// Units that share the right rows.
    pub(crate) fn lanes(&self) -> usize {
        self.rows[1] / self.of_unit[1]
    }

    pub(crate) fn units(&self) -> usize {
        self.groups() * self.lanes()
    }

    /// Products of a unit.
    pub(crate) fn products(&self) -> usize {
        self.of_unit[0] * self.of_unit[1]
    }

    /// Loads from one row to the next in shared memory, where an odd number keeps neighbouring rows in different banks.
    pub(crate) fn pitch(&self) -> usize {
        self.depth + 1
    }

    /// Loads of shared memory for one of the matrices.
    pub(crate) fn shared(&self, side: usize) -> usize {
        self.rows[side] * self.pitch()
    }

    /// Steps until rows of `loads` are multiplied.
    pub(crate) fn steps(&self, loads: usize) -> usize {
        loads.div_ceil(self.depth)
    }

    /// Rounds in which the units bring `items` into shared memory.
    pub(crate) fn rounds(&self, items: usize) -> usize {
        items.div_ceil(self.units())
    }
}

/// The left row of this unit's `i`-th one.
#[cube]
pub(crate) fn left_row(#[comptime] i: usize, #[comptime] tile: Tile) -> usize {
    UNIT_POS as usize / tile.lanes() + comptime!(i * tile.groups())
}

/// The right row of this unit's `i`-th one.
#[cube]
pub(crate) fn right_row(#[comptime] i: usize, #[comptime] tile: Tile) -> usize {
    UNIT_POS as usize % tile.lanes() + comptime!(i * tile.lanes())
}

/// Brings a step of the left rows, which begin at `starts`, into shared memory.
#[cube]
pub(crate) fn stage_left<F: Float, N: Size>(
    source: &[Vector<F, N>],
    starts: &Shared<[u32]>,
    shared: &mut Shared<[Vector<f32, N>]>,
    step: usize,
    #[comptime] loads: usize,
    #[comptime] tile: Tile,
) {
    let items = comptime!(tile.rows[0] * tile.depth);
    #[unroll]
    for round in 0..comptime!(tile.rounds(items)) {
        let item = round * tile.units() + UNIT_POS as usize;
        if comptime!(items.is_multiple_of(tile.units())) || item < items {
            let (row, at) = (item / tile.depth, item % tile.depth);
            let load = step * tile.depth + at;
            let mut value = Vector::<f32, N>::zero();
            if comptime!(loads.is_multiple_of(tile.depth)) || load < loads {
                value = Vector::<f32, N>::cast_from(source[starts[row] as usize + load]);
            }
            shared[row * tile.pitch() + at] = value;
        }
    }
}

/// Brings a step of the right rows, `stride` loads from one to the next, into shared memory. Rows past the last one repeat it.
#[cube]
pub(crate) fn stage_right<F: Float, N: Size>(
    source: &[Vector<F, N>],
    start: usize,
    stride: usize,
    last: usize,
    shared: &mut Shared<[Vector<f32, N>]>,
    step: usize,
    #[comptime] loads: usize,
    #[comptime] tile: Tile,
) {
    let items = comptime!(tile.rows[1] * tile.depth);
    #[unroll]
    for round in 0..comptime!(tile.rounds(items)) {
        let item = round * tile.units() + UNIT_POS as usize;
        if comptime!(items.is_multiple_of(tile.units())) || item < items {
            let (row, at) = (item / tile.depth, item % tile.depth);
            let load = step * tile.depth + at;
            let mut value = Vector::<f32, N>::zero();
            if comptime!(loads.is_multiple_of(tile.depth)) || load < loads {
                let safe = select(row < last, row, last);
                value = Vector::<f32, N>::cast_from(source[start + safe * stride + load]);
            }
            shared[row * tile.pitch() + at] = value;
        }
    }
}

/// Adds the products of a step to this unit's sums.
#[cube]
pub(crate) fn multiply<N: Size>(
    left: &Shared<[Vector<f32, N>]>,
    right: &Shared<[Vector<f32, N>]>,
    sums: &mut Array<Vector<f32, N>>,
    #[comptime] tile: Tile,
) {
    let mut rows = Array::<Vector<f32, N>>::new(tile.of_unit[0]);
    #[unroll]
    for at in 0..tile.depth {
        #[unroll]
        for i in 0..comptime!(tile.of_unit[0]) {
            rows[i] = left[left_row(i, tile) * tile.pitch() + at];
        }
        #[unroll]
        for j in 0..comptime!(tile.of_unit[1]) {
            let row = right[right_row(j, tile) * tile.pitch() + at];
            #[unroll]
            for i in 0..comptime!(tile.of_unit[0]) {
                let product = comptime!(i * tile.of_unit[1] + j);
                // An explicit `fma`: if the compiler chose, tiles of another size might round differently.
                sums[product] = fma(rows[i], row, sums[product]);
            }
        }
    }
}

/// Makes this unit's sums zero.
#[cube]
pub(crate) fn clear<N: Size>(sums: &mut Array<Vector<f32, N>>, #[comptime] count: usize) {
    #[unroll]
    for i in 0..count {
        sums[i] = Vector::<f32, N>::zero();
    }
}
