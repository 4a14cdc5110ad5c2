//! Attention tile by tile: the softmax of the scores so far, and the values weighted by it.

use cubecl::prelude::*;

use crate::rows::LOWEST;

/// Rows of a tile.
pub(crate) const ROWS: usize = 32;
/// Keys of a tile.
pub(crate) const KEYS: usize = 64;
/// Units of a cube.
pub(crate) const UNITS: usize = 128;
/// Units that share the softmax of a row.
pub(crate) const PARTS: usize = UNITS / ROWS;
/// Most numbers of a head.
pub(crate) const MOST_NUMBERS: usize = 256;

/// Units that share an output row; `loads` is the number of vector loads in the row.
pub(crate) fn lanes(loads: usize) -> usize {
    loads.next_power_of_two().max(PARTS)
}

/// Output rows that each unit computes.
pub(crate) fn outputs(loads: usize) -> usize {
    ROWS * lanes(loads) / UNITS
}

/// What a unit knows of the softmax of its row: the greatest score, and the sum of the shares relative to it.
#[cube]
pub(crate) fn begin() -> Array<f32> {
    let mut state = Array::<f32>::new(2usize);
    state[0] = f32::new(LOWEST);
    state[1] = 0.0f32;
    state
}

/// Turns the scores of a tile into shares relative to the greatest one so far, and finds by which factor what was added up before is
/// to be multiplied. What `left` and `right` held is lost.
#[cube]
pub(crate) fn soften<N: Size>(
    shares: &mut Shared<[f32]>,
    factors: &mut Shared<[f32]>,
    left: &mut Shared<[Vector<f32, N>]>,
    right: &mut Shared<[Vector<f32, N>]>,
    state: &mut Array<f32>,
) {
    let unit = UNIT_POS as usize;
    let (row, part) = (unit % comptime!(ROWS), unit / comptime!(ROWS));
    let greatest = state[0];
    let mut higher = greatest;
    #[unroll]
    for i in 0..comptime!(KEYS / PARTS) {
        higher = max(higher, shares[row * comptime!(KEYS) + i * comptime!(PARTS) + part]);
    }
    left[unit] = Vector::<f32, N>::new(higher);
    sync_cube();
    #[unroll]
    for other in 0..comptime!(PARTS) {
        higher = max(higher, left[other * comptime!(ROWS) + row].extract(0usize));
    }
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..comptime!(KEYS / PARTS) {
        let at = row * comptime!(KEYS) + i * comptime!(PARTS) + part;
        let score = shares[at];
        let share = select(score > f32::new(LOWEST), f32::exp(score - higher), 0.0f32);
        shares[at] = share;
        sum += share;
    }
    right[unit] = Vector::<f32, N>::new(sum);
    // What was added up before was relative to a lower score.
    let earlier = f32::exp(greatest - higher);
    if part == 0 {
        factors[row] = earlier;
    }
    sync_cube();
    let mut total = state[1] * earlier;
    #[unroll]
    for other in 0..comptime!(PARTS) {
        total += right[other * comptime!(ROWS) + row].extract(0usize);
    }
    state[0] = higher;
    state[1] = total;
}

/// Adds the values of a tile of keys, the first at `at` and each `stride` loads behind the one before, to the sums of this unit.
#[cube]
pub(crate) fn add_values<F: Float, N: Size>(
    values: &[Vector<F, N>],
    at: usize,
    stride: usize,
    keys: usize,
    shares: &Shared<[f32]>,
    factors: &Shared<[f32]>,
    sums: &mut Array<Vector<f32, N>>,
    #[comptime] loads: usize,
) {
    let (lane, output) = lane_of_unit(loads);
    if lane < loads {
        #[unroll]
        for i in 0..comptime!(outputs(loads)) {
            sums[i] *= Vector::<f32, N>::new(factors[output + i]);
        }
        for key in 0..keys {
            let value = Vector::<f32, N>::cast_from(values[at + key * stride + lane]);
            #[unroll]
            for i in 0..comptime!(outputs(loads)) {
                let share = Vector::<f32, N>::new(shares[(output + i) * comptime!(KEYS) + key]);
                sums[i] = fma(value, share, sums[i]);
            }
        }
    }
}

/// The load of an output row that is this unit's, and the first of its rows.
#[cube]
pub(crate) fn lane_of_unit(#[comptime] loads: usize) -> (usize, usize) {
    let unit = UNIT_POS as usize;
    (unit % comptime!(lanes(loads)), unit / comptime!(lanes(loads)) * comptime!(outputs(loads)))
}

/// Leaves in `factors` what the sums of each row are to be divided by.
#[cube]
pub(crate) fn totals(factors: &mut Shared<[f32]>, state: &Array<f32>) {
    let unit = UNIT_POS as usize;
    sync_cube();
    if unit < comptime!(ROWS) {
        factors[unit] = state[1];
    }
    sync_cube();
}
