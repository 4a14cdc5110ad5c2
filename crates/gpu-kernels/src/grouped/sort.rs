//! Pairs of row and expert, sorted by expert.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::experts::kernel::expert_of;
use crate::launch::empty;

/// Units of a cube.
pub(super) const UNITS: usize = 256;
/// Most experts whose pairs are counted in shared memory.
pub(super) const MOST_EXPERTS: usize = 2048;
/// Expert, first pair and number of pairs of a tile.
pub(super) const TILE_NUMBERS: usize = 3;

/// Sizes of the sorting, known to the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sorting {
    pub experts: usize,
    /// Pairs of a tile.
    pub tile: usize,
}

/// Adds up one value per unit up to each unit, its own included.
#[cube]
fn sums_up_to_units(value: u32, shared: &mut Shared<[u32]>) -> u32 {
    let unit = UNIT_POS as usize;
    let mut sum = value;
    #[unroll]
    for doubling in 0..comptime!(UNITS.ilog2() as usize) {
        let distance = comptime!(1usize << doubling);
        shared[unit] = sum;
        sync_cube();
        if unit >= distance {
            sum += shared[unit - distance];
        }
        sync_cube();
    }
    sum
}

/// One cube per expert, which lists its pairs in their order and its tiles. Only the counts are made by atomic additions, whose
/// order does not show.
#[cube(launch)]
fn sorted(
    index: &[i32],
    order: &mut [i32],
    tiles: &mut [i32],
    pairs: usize,
    slots: usize,
    #[comptime] sorting: Sorting,
) {
    let (unit, own) = (UNIT_POS as usize, CUBE_POS);
    let counts = Shared::<[Atomic<u32>]>::new_slice(sorting.experts);
    let mut shared = Shared::<[u32]>::new_slice(comptime!(UNITS));
    let mut totals = Shared::<[u32]>::new_slice(2usize);
    let rounds = comptime!(sorting.experts.div_ceil(UNITS));
    #[unroll]
    for round in 0..rounds {
        let expert = round * comptime!(UNITS) + unit;
        if expert < sorting.experts {
            counts[expert].store(0u32);
        }
    }
    sync_cube();
    for step in 0..pairs.div_ceil(comptime!(UNITS)) {
        let pair = step * comptime!(UNITS) + unit;
        if pair < pairs {
            counts[expert_of(index, pair, sorting.experts)].fetch_add(1u32);
        }
    }
    sync_cube();

    // Pairs and tiles of the experts before this one.
    let mut pairs_before = 0u32;
    let mut tiles_before = 0u32;
    #[unroll]
    for round in 0..rounds {
        let expert = round * comptime!(UNITS) + unit;
        if expert < own {
            let count = counts[expert].load();
            pairs_before += count;
            tiles_before += count.div_ceil(comptime!(sorting.tile as u32));
        }
    }
    let pairs_before = sums_up_to_units(pairs_before, &mut shared);
    let tiles_before = sums_up_to_units(tiles_before, &mut shared);
    if unit == comptime!(UNITS - 1) {
        totals[0] = pairs_before;
        totals[1] = tiles_before;
    }
    sync_cube();
    let (first, first_tile) = (totals[0], totals[1] as usize);

    // Each unit lists its share of all pairs, after those of the units before it.
    let share = pairs.div_ceil(comptime!(UNITS));
    let begin = unit * share;
    let end = select(begin + share < pairs, begin + share, pairs);
    let mut found = 0u32;
    for pair in begin..end {
        if expert_of(index, pair, sorting.experts) == own {
            found += 1u32;
        }
    }
    let mut place = first + sums_up_to_units(found, &mut shared) - found;
    for pair in begin..end {
        if expert_of(index, pair, sorting.experts) == own {
            order[place as usize] = pair as i32;
            place += 1u32;
        }
    }

    let count = counts[own].load();
    let own_tiles = count.div_ceil(comptime!(sorting.tile as u32)) as usize;
    for step in 0..own_tiles.div_ceil(comptime!(UNITS)) {
        let i = step * comptime!(UNITS) + unit;
        if i < own_tiles {
            let (at, before) = ((first_tile + i) * comptime!(TILE_NUMBERS), i as u32 * comptime!(sorting.tile as u32));
            let left = count - before;
            tiles[at] = own as i32;
            tiles[at + 1] = (first + before) as i32;
            tiles[at + 2] = select(left < comptime!(sorting.tile as u32), left, comptime!(sorting.tile as u32)) as i32;
        }
    }
    // The rest of the list becomes tiles without pairs.
    if own == comptime!(sorting.experts - 1) {
        let used = first_tile + own_tiles;
        for step in 0..(slots - used).div_ceil(comptime!(UNITS)) {
            let i = used + step * comptime!(UNITS) + unit;
            if i < slots {
                tiles[i * comptime!(TILE_NUMBERS) + 2] = 0i32;
            }
        }
    }
}

/// Lists the pairs `[N * k]` by expert, those of an expert in their order, and the tiles `[slots, 3]` that they make.
///
/// # Shapes
/// `index` `[N, k]`.
pub(super) fn sort(index: &CubeTensor, pairs: usize, slots: usize, sorting: Sorting) -> [CubeTensor; 2] {
    let order = empty(index, [pairs], DType::I32);
    let tiles = empty(index, [slots, TILE_NUMBERS], DType::I32);
    sorted::launch(
        &index.client,
        CubeCount::Static(sorting.experts as u32, 1, 1),
        CubeDim::new_1d(UNITS as u32),
        index.clone().into_buffer_arg(),
        order.clone().into_buffer_arg(),
        tiles.clone().into_buffer_arg(),
        pairs,
        slots,
        sorting,
    );
    [order, tiles]
}
