//! Flash attention: the kernel of [`attend`](crate::attend()) for many queries. Rows of its tiles are pairs of query and head, those of a
//! query side by side.

use burn::backend::Cube;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::Tensor;
use cubecl::prelude::*;

use crate::launch::{MOST_CUBES, empty, floats, load_size, strided_cache, tensor};
use crate::online_softmax::{self, KEYS, MOST_NUMBERS, ROWS, UNITS, add_values, lane_of_unit, outputs, soften};
use crate::rows::LOWEST;
use crate::tiles::{Tile, clear, left_row, multiply, right_row, stage_left, stage_right};

/// Sizes that the compiler knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sizes {
    heads: usize,
    /// Query heads that share a key head.
    group: usize,
    /// Loads of one head.
    loads: usize,
    tile: Tile,
}

/// One cube per key head and tile of rows, which walks through the keys tile by tile. Tiles of keys begin at the same keys for every
/// row, and those that a row does not see leave its sums as they are, so that it is the same in any company.
#[cube(launch)]
fn attended<F: Float, N: Size>(
    q: &[Vector<F, N>],
    keys: &[Vector<F, N>],
    values: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    tokens: usize,
    count: usize,
    window: usize,
    scale: f32,
    // Loads between the heads and between the keys of the cache.
    head_loads: usize,
    key_loads: usize,
    #[comptime] sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let (unit, kv_head) = (UNIT_POS as usize, CUBE_POS_X as usize);
    // The last rows see the most keys, so they begin first.
    let tiles = (tokens * sizes.group).div_ceil(comptime!(ROWS));
    let first = (tiles - 1 - CUBE_POS_Y as usize) * comptime!(ROWS);
    let rows = tokens * sizes.group - first;
    let last = select(rows < comptime!(ROWS), rows, comptime!(ROWS)) - 1;
    let mut starts = Shared::<[u32]>::new_slice(comptime!(ROWS));
    if unit < comptime!(ROWS) {
        let row = first + select(unit < last, unit, last);
        let head = kv_head * sizes.group + row % sizes.group;
        starts[unit] = ((row / sizes.group * sizes.heads + head) * sizes.loads) as u32;
    }
    // The first key after those that some row sees, and the tile of keys that holds the first one.
    let past = count - tokens;
    let end = past + (first + last) / sizes.group + 1;
    let end_of_first = past + first / sizes.group + 1;
    let begin = select(end_of_first > window, end_of_first - window, 0) / comptime!(KEYS) * comptime!(KEYS);

    let mut left = Shared::<[Vector<f32, N>]>::new_slice(comptime!(sizes.tile.shared(0)));
    let mut right = Shared::<[Vector<f32, N>]>::new_slice(comptime!(sizes.tile.shared(1)));
    let mut shares = Shared::<[f32]>::new_slice(comptime!(ROWS * KEYS));
    let mut factors = Shared::<[f32]>::new_slice(comptime!(ROWS));
    let mut scores = Array::<Vector<f32, N>>::new(comptime!(sizes.tile.products()));
    let mut sums = Array::<Vector<f32, N>>::new(comptime!(outputs(sizes.loads)));
    clear::<N>(&mut sums, comptime!(outputs(sizes.loads)));
    let mut state = online_softmax::begin();
    for run in 0..(end - begin).div_ceil(comptime!(KEYS)) {
        let start = begin + run * comptime!(KEYS);
        let left_keys = end - start;
        let seen = select(left_keys < comptime!(KEYS), left_keys, comptime!(KEYS));
        let at = kv_head * head_loads + start * key_loads;
        clear::<N>(&mut scores, comptime!(sizes.tile.products()));
        for step in 0..comptime!(sizes.tile.steps(sizes.loads)) {
            sync_cube();
            stage_left::<F, N>(q, &starts, &mut left, step, sizes.loads, sizes.tile);
            stage_right::<F, N>(keys, at, key_loads, seen - 1, &mut right, step, sizes.loads, sizes.tile);
            sync_cube();
            multiply::<N>(&left, &right, &mut scores, sizes.tile);
        }
        #[unroll]
        for i in 0..comptime!(sizes.tile.of_unit[0]) {
            let row = left_row(i, sizes.tile);
            let row_end = past + (first + select(row < last, row, last)) / sizes.group + 1;
            #[unroll]
            for j in 0..comptime!(sizes.tile.of_unit[1]) {
                let column = right_row(j, sizes.tile);
                let key = start + column;
                let score = Vector::vector_sum(scores[comptime!(i * sizes.tile.of_unit[1] + j)]) * scale;
                let visible = key < row_end && key + window >= row_end;
                shares[row * comptime!(KEYS) + column] = select(visible, score, f32::new(LOWEST));
            }
        }
        sync_cube();
        soften::<N>(&mut shares, &mut factors, &mut left, &mut right, &mut state);
        add_values::<F, N>(values, at, key_loads, seen, &shares, &factors, &mut sums, sizes.loads);
    }
    online_softmax::totals(&mut factors, &state);
    let (lane, output) = lane_of_unit(sizes.loads);
    if lane < sizes.loads {
        #[unroll]
        for i in 0..comptime!(outputs(sizes.loads)) {
            if output + i <= last {
                let mean = sums[i] / Vector::<f32, N>::new(factors[output + i]);
                out[starts[output + i] as usize + lane] = Vector::<F, N>::cast_from(mean);
            }
        }
    }
}

/// Whether the tensor lies on a CubeCL device and tracks no gradient, and the sizes are those the kernel is made for.
pub(crate) fn takes(x: &Tensor<3>, keys: usize) -> bool {
    let [tokens, _, width] = x.dims();
    (1..=keys).contains(&tokens)
        && (1..=MOST_NUMBERS).contains(&width)
        && x.clone().try_into_primitive::<Cube>().is_ok_and(|x| {
            let units = x.client.properties().hardware.max_units_per_cube as usize;
            UNITS <= units && width / load_size(&x.client, x.dtype, width) <= UNITS
        })
}

pub(crate) fn attend(q: &Tensor<3>, [keys, values]: [&Tensor<4>; 2], window: Option<usize>) -> Option<Tensor<2>> {
    let ([tokens, heads, width], [batch, kv_heads, count, _]) = (q.dims(), keys.dims());
    let fits = batch == 1 && keys.dims()[3] == width && values.dims() == keys.dims();
    let dtypes = keys.dtype() == q.dtype() && values.dtype() == q.dtype();
    if !takes(q, count) || !fits || !dtypes || !heads.is_multiple_of(kv_heads.max(1)) {
        return None;
    }
    let (q, (keys, key_strides), (values, value_strides)) = (floats(q)?, strided_cache(keys)?, strided_cache(values)?);
    let ([head, key], client, dtype, group) = (key_strides, q.client.clone(), q.dtype, heads / kv_heads);
    // Loads must begin at whole loads in every row of the cache, and are widened to f32.
    let by = [width, head, key].map(|numbers| load_size(&client, dtype, numbers)).into_iter().min()?;
    let tiles = (tokens * group).div_ceil(ROWS);
    if key_strides != value_strides || width / by > UNITS || tiles > MOST_CUBES {
        return None;
    }
    let sizes = Sizes { heads, group, loads: width / by, tile: Tile::new([ROWS, KEYS], [4, 4], by) };
    let out = empty(&q, [tokens, heads * width], dtype);
    attended::launch(
        &client,
        CubeCount::Static(kv_heads as u32, tiles as u32, 1),
        CubeDim::new_1d(UNITS as u32),
        by,
        q.into_buffer_arg(),
        keys.into_buffer_arg(),
        values.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        tokens,
        count,
        window.unwrap_or(count),
        (width as f32).powf(-0.5),
        head / by,
        key / by,
        sizes,
        dtype_to_storage_type(dtype),
    );
    Some(tensor(out))
}
