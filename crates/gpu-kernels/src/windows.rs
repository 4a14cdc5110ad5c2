//! Attention of encoders: inside windows of rows, none across them.

use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Tensor};
#[cfg(cube)]
use burn::tensor::{Int, TensorData};

/// Windows of rows, one behind another.
#[derive(Debug, Clone)]
pub struct Windows {
    lengths: Vec<usize>,
    /// `[4 T]`: first row and last of each tile, counted from the first, and first row and end of its window.
    #[cfg(cube)]
    tiles: Tensor<1, Int>,
}

impl Windows {
    /// Windows of the given lengths, on the device whose rows they divide.
    pub fn new(lengths: &[usize], device: &Device) -> Self {
        #[cfg(cube)]
        let tiles = {
            let values = kernel::tiles(lengths, crate::online_softmax::ROWS);
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), device)
        };
        #[cfg(not(cube))]
        let _ = device;
        Self {
            lengths: lengths.to_vec(),
            #[cfg(cube)]
            tiles,
        }
    }

    /// The lengths.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }
}

/// Attention inside windows from what one product made of each row: queries, keys and values, a bias to be added, and perhaps a rotation
/// of queries and keys. The whole is one launch.
///
/// # Shapes
/// `qkv` `[N, 3 H Dh]`, `bias` `[3 H Dh]`, tables `[N, 1, Dh]` → `[N, H Dh]`; the windows add up to `N`.
///
/// # Panics
/// If the windows do not add up to `N`.
pub fn window_attention(
    qkv: Tensor<2>,
    bias: Tensor<1>,
    heads: usize,
    tables: Option<[&Tensor<3>; 2]>,
    windows: &Windows,
) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::window_attention(&qkv, &bias, heads, tables, windows) {
        return y;
    }
    plain(qkv, bias, heads, tables, windows)
}

/// [`window_attention`] in plain operations.
pub fn plain(
    qkv: Tensor<2>,
    bias: Tensor<1>,
    heads: usize,
    tables: Option<[&Tensor<3>; 2]>,
    windows: &Windows,
) -> Tensor<2> {
    let [rows, width] = qkv.dims();
    let parts = crate::bias::plain(qkv, bias).reshape([rows, 3, heads, width / 3 / heads]).split(1, 1);
    let parts: Vec<Tensor<3>> = parts.into_iter().map(|part| part.squeeze_dim(1)).collect();
    let [q, k, v] = <[Tensor<3>; 3]>::try_from(parts).expect("queries, keys and values");
    let [q, k] = match tables {
        Some([cos, sin]) => [q, k].map(|x| crate::rotation::plain(x, cos, sin)),
        None => [q, k],
    };
    attend_windows([q, k, v], &windows.lengths)
}

/// Most attention scores of one block: a quarter of a gigabyte in f32.
const SCORES: usize = 1 << 26;

/// Full attention inside windows of rows, none across them, in plain operations.
///
/// # Shapes
/// `q`, `k`, `v` `[N, H, Dh]`; `windows` are lengths that add up to `N`. Returns `[N, H * Dh]`.
///
/// # Panics
/// If the windows do not add up to `N`.
pub fn attend_windows(qkv: [Tensor<3>; 3], windows: &[usize]) -> Tensor<2> {
    let [rows, heads, width] = qkv[0].dims();
    assert_eq!(windows.iter().sum::<usize>(), rows, "windows cover the rows");
    let [q, k, v] = qkv;
    let (mut pieces, mut start) = (Vec::new(), 0);
    // Neighbouring windows of the same length form a batch.
    for run in windows.chunk_by(|a, b| a == b) {
        let (count, length) = (run.len(), run[0]);
        if length > 0 {
            let batch = [&q, &k, &v].map(|x| {
                let x = x.clone().narrow(0, start, count * length).reshape([count, length, heads, width]);
                x.swap_dims(1, 2) // [windows, H, length, Dh]
            });
            let out = in_batch(batch); // [windows, H, length, Dh]
            pieces.push(out.swap_dims(1, 2).reshape([count * length, heads * width]));
        }
        start += count * length;
    }
    joined(pieces, 0)
}

fn in_batch([q, k, v]: [Tensor<4>; 3]) -> Tensor<4> {
    let [windows, heads, length, _] = q.dims();
    let block = (SCORES / (windows * heads * length)).clamp(1, length);
    let blocks = (0..length).step_by(block).map(|start| {
        let q = q.clone().narrow(2, start, block.min(length - start));
        // burn's attention, which keeps no scores on the CPU; softmax in f32, scaled by the head width.
        attention(q, k.clone(), v.clone(), None, None, AttentionModuleOptions::default())
    });
    joined(blocks.collect(), 2)
}

/// Joins tensors along an axis; one alone is not copied.
fn joined<const D: usize>(mut parts: Vec<Tensor<D>>, axis: usize) -> Tensor<D> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, axis),
    }
}

#[cfg(cube)]
mod kernel {
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::{DType, Tensor};
    use cubecl::prelude::*;

    use super::Windows;
    use crate::launch::{MOST_CUBES, empty, floats, integers, load_size, tensor};
    use crate::online_softmax::{self, KEYS, MOST_NUMBERS, ROWS, UNITS, add_values, lane_of_unit, outputs, soften};
    use crate::rows::LOWEST;
    use crate::tiles::{Tile, clear, left_row, multiply, right_row};

    /// Sizes that the compiler knows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Sizes {
        heads: usize,
        /// Loads of one head.
        loads: usize,
        tile: Tile,
        /// Whether queries and keys are rotated.
        rotates: bool,
    }

    impl Sizes {
        /// Loads of queries, keys or values of a row.
        fn part(&self) -> usize {
            self.heads * self.loads
        }
    }

    /// The table of all tiles of that many rows.
    pub(super) fn tiles(lengths: &[usize], rows: usize) -> Vec<i32> {
        let (mut table, mut start) = (Vec::new(), 0);
        for length in lengths {
            let of_window = (0..*length).step_by(rows).map(|first| {
                let last = rows.min(length - first) - 1;
                [start + first, last, start, start + length].map(|at| at as i32)
            });
            table.extend(of_window.flatten());
            start += length;
        }
        table
    }

    /// Numbers of a head of queries or keys, with their bias, rotated if they are to be.
    #[cube]
    fn turned<F: Float, N: Size>(
        qkv: &[Vector<F, N>],
        bias: &[Vector<F, N>],
        cos: &[Vector<f32, N>],
        sin: &[Vector<f32, N>],
        row: usize,
        column: usize,
        load: usize,
        #[comptime] sizes: Sizes,
    ) -> Vector<f32, N> {
        let at = row * comptime!(3 * sizes.part()) + column;
        let mut value = Vector::<f32, N>::cast_from(qkv[at + load] + bias[column + load]);
        if comptime!(sizes.rotates) {
            // The other half of the head.
            let other = (load + comptime!(sizes.loads / 2)) % sizes.loads;
            let sign = select(load < other, -1.0f32, 1.0f32);
            let other =
                Vector::<f32, N>::cast_from(qkv[at + other] + bias[column + other]) * Vector::<f32, N>::new(sign);
            let angle = row * sizes.loads + load;
            let rotated = value * cos[angle] + other * sin[angle];
            value = Vector::<f32, N>::cast_from(Vector::<F, N>::cast_from(rotated));
        }
        value
    }

    /// Brings a step of consecutive rows of one head into shared memory. Rows past the last one repeat it.
    #[cube]
    fn stage<F: Float, N: Size>(
        qkv: &[Vector<F, N>],
        bias: &[Vector<F, N>],
        cos: &[Vector<f32, N>],
        sin: &[Vector<f32, N>],
        first: usize,
        last: usize,
        column: usize,
        shared: &mut Shared<[Vector<f32, N>]>,
        step: usize,
        #[comptime] rows: usize,
        #[comptime] sizes: Sizes,
    ) {
        let items = comptime!(rows * sizes.tile.depth);
        #[unroll]
        for round in 0..comptime!(sizes.tile.rounds(items)) {
            let item = round * sizes.tile.units() + UNIT_POS as usize;
            if comptime!(items.is_multiple_of(sizes.tile.units())) || item < items {
                let (row, at) = (item / sizes.tile.depth, item % sizes.tile.depth);
                let load = step * sizes.tile.depth + at;
                let mut value = Vector::<f32, N>::zero();
                if comptime!(sizes.loads.is_multiple_of(sizes.tile.depth)) || load < sizes.loads {
                    let row = first + select(row < last, row, last);
                    value = turned::<F, N>(qkv, bias, cos, sin, row, column, load, sizes);
                }
                shared[row * sizes.tile.pitch() + at] = value;
            }
        }
    }

    /// One cube per head and tile of rows, which walks through the keys of their window tile by tile. Queries and keys are rotated as they
    /// are read; the bias of the values is added to their mean.
    #[cube(launch)]
    fn windowed<F: Float, N: Size>(
        qkv: &[Vector<F, N>],
        bias: &[Vector<F, N>],
        cos: &[Vector<f32, N>],
        sin: &[Vector<f32, N>],
        tiles: &[i32],
        out: &mut [Vector<F, N>],
        scale: f32,
        #[comptime] sizes: Sizes,
        #[define(F)] _dtype: ElemType,
    ) {
        let (head, tile) = (CUBE_POS_X as usize, CUBE_POS_Y as usize * 4);
        let (first, last) = (tiles[tile] as usize, tiles[tile + 1] as usize);
        let (begin, end) = (tiles[tile + 2] as usize, tiles[tile + 3] as usize);
        let query = head * sizes.loads;
        let (key, value) = (query + sizes.part(), query + 2 * sizes.part());

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
            clear::<N>(&mut scores, comptime!(sizes.tile.products()));
            for step in 0..comptime!(sizes.tile.steps(sizes.loads)) {
                sync_cube();
                stage::<F, N>(qkv, bias, cos, sin, first, last, query, &mut left, step, ROWS, sizes);
                stage::<F, N>(qkv, bias, cos, sin, start, seen - 1, key, &mut right, step, KEYS, sizes);
                sync_cube();
                multiply::<N>(&left, &right, &mut scores, sizes.tile);
            }
            #[unroll]
            for i in 0..comptime!(sizes.tile.of_unit[0]) {
                #[unroll]
                for j in 0..comptime!(sizes.tile.of_unit[1]) {
                    let column = right_row(j, sizes.tile);
                    let score = Vector::vector_sum(scores[comptime!(i * sizes.tile.of_unit[1] + j)]) * scale;
                    let place = left_row(i, sizes.tile) * comptime!(KEYS) + column;
                    shares[place] = select(column < seen, score, f32::new(LOWEST));
                }
            }
            sync_cube();
            soften::<N>(&mut shares, &mut factors, &mut left, &mut right, &mut state);
            let row = comptime!(3 * sizes.part());
            add_values::<F, N>(qkv, start * row + value, row, seen, &shares, &factors, &mut sums, sizes.loads);
        }
        online_softmax::totals(&mut factors, &state);
        let (lane, output) = lane_of_unit(sizes.loads);
        if lane < sizes.loads {
            let bias = Vector::<f32, N>::cast_from(bias[value + lane]);
            #[unroll]
            for i in 0..comptime!(outputs(sizes.loads)) {
                if output + i <= last {
                    let mean = sums[i] / Vector::<f32, N>::new(factors[output + i]) + bias;
                    out[(first + output + i) * sizes.part() + query + lane] = Vector::<F, N>::cast_from(mean);
                }
            }
        }
    }

    pub(super) fn window_attention(
        qkv: &Tensor<2>,
        bias: &Tensor<1>,
        heads: usize,
        tables: Option<[&Tensor<3>; 2]>,
        windows: &Windows,
    ) -> Option<Tensor<2>> {
        let ([rows, all], tiles) = (qkv.dims(), &windows.tiles);
        let (width, count) = (all / 3 / heads.max(1), tiles.dims()[0] / 4);
        assert_eq!(windows.lengths.iter().sum::<usize>(), rows, "windows cover the rows");
        let fits = bias.dims() == [all] && bias.dtype() == qkv.dtype() && 3 * heads * width == all;
        let rotates = tables.is_some();
        let turns = |table: &Tensor<3>| table.dims() == [rows, 1, width] && table.dtype() == DType::F32;
        if !fits || !(1..=MOST_NUMBERS).contains(&width) || !(1..=MOST_CUBES).contains(&count) {
            return None;
        }
        if tables.is_some_and(|tables| !width.is_multiple_of(2) || !tables.into_iter().all(turns)) {
            return None;
        }
        let (qkv, bias, tiles) = (floats(qkv)?, floats(bias)?, integers(tiles)?);
        let (client, dtype) = (qkv.client.clone(), qkv.dtype);
        // A load must lie within half a head.
        let by = load_size(&client, dtype, if rotates { width / 2 } else { width });
        let units = client.properties().hardware.max_units_per_cube as usize;
        if width / by > UNITS || UNITS > units {
            return None;
        }
        let [cos, sin] = match tables {
            Some([cos, sin]) => [floats(cos)?, floats(sin)?],
            // They are not read.
            None => [(); 2].map(|()| empty(&qkv, [by], DType::F32)),
        };
        let sizes = Sizes { heads, loads: width / by, tile: Tile::new([ROWS, KEYS], [4, 4], by), rotates };
        let out = empty(&qkv, [rows, heads * width], dtype);
        windowed::launch(
            &client,
            CubeCount::Static(heads as u32, count as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            by,
            qkv.into_buffer_arg(),
            bias.into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            tiles.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            (width as f32).powf(-0.5),
            sizes,
            dtype_to_storage_type(dtype),
        );
        Some(tensor(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    #[test]
    fn windows_do_not_see_each_other() {
        let device = Device::flex();
        let random = || Tensor::<3>::random([11, 2, 4], Distribution::Normal(0.0, 1.0), &device);
        let qkv = [random(), random(), random()];
        let together = attend_windows(qkv.clone(), &[3, 3, 1, 0, 4]);
        for (start, length) in [(0, 3), (3, 3), (6, 1), (7, 4)] {
            let alone = attend_windows(qkv.clone().map(|x| x.narrow(0, start, length)), &[length]);
            let error = (together.clone().narrow(0, start, length) - alone).abs().max().into_scalar::<f32>();
            assert!(error < 1e-6, "{error}");
        }
    }

    #[cfg(cube)]
    #[test]
    fn tiles_end_with_their_windows() {
        assert_eq!(kernel::tiles(&[5, 0, 2], 4), [0, 3, 0, 5, 4, 0, 0, 5, 5, 1, 5, 7]);
    }
}
