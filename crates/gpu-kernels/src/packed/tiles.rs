//! Packed matrices in products of tiles: they are unpacked when they are brought into shared memory.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::Tensor;
use cubecl::prelude::*;

use super::{Packed, buffers};
use crate::launch::{MOST_CUBES, empty, floats, load_size, tensor};
use crate::tiles::{Tile, clear, left_row, multiply, right_row, stage_left};

/// Rows of `x` in a tile.
const ROWS: usize = 32;
/// Outputs of a tile.
const COLUMNS: usize = 64;
/// Most rows. For more, a matrix that is unpacked once and multiplied with tensor cores, where there are any, should cost less.
const MOST_ROWS: usize = 512;

/// How the numbers of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    /// 4 or 8; 0 for numbers that are not packed.
    pub bits: usize,
    /// Words of a row and of a group.
    words: usize,
    group: usize,
    zeros: bool,
}

impl Form {
    pub(crate) const DENSE: Self = Self { bits: 0, words: 0, group: 1, zeros: false };

    pub(crate) fn new(matrix: &Packed) -> Option<Self> {
        let ([_, words], [_, groups]) = (matrix.words.dims(), matrix.scales.dims());
        matrix.is_whole().then(|| Self {
            bits: matrix.bits,
            words,
            group: words / groups,
            zeros: matrix.zeros.is_some(),
        })
    }

    fn groups(&self) -> usize {
        self.words / self.group
    }

    /// Loads of 4 numbers in a word.
    fn loads(&self) -> usize {
        8 / self.bits
    }

    fn mask(&self) -> u32 {
        (1 << self.bits) - 1
    }

    fn middle(&self) -> f32 {
        (1u32 << (self.bits - 1)) as f32
    }
}

/// Brings a step of rows of packed integers into shared memory, as numbers. Rows past the last one repeat it.
#[cube]
pub(crate) fn stage_packed<F: Float, N: Size>(
    words: &[u32],
    scales: &[F],
    zeros: &[F],
    first: usize,
    last: usize,
    shared: &mut Shared<[Vector<f32, N>]>,
    step: usize,
    #[comptime] tile: Tile,
    #[comptime] form: Form,
) {
    let depth = comptime!(tile.depth / form.loads());
    let items = comptime!(tile.rows[1] * depth);
    #[unroll]
    for round in 0..comptime!(tile.rounds(items)) {
        let item = round * tile.units() + UNIT_POS as usize;
        if comptime!(items.is_multiple_of(tile.units())) || item < items {
            let (column, at) = (item / depth, item % depth);
            let row = first + select(column < last, column, last);
            let place = step * depth + at;
            let inside = place < form.words;
            let place = select(inside, place, 0);
            let (word, group) = (words[row * form.words + place], row * form.groups() + place / form.group);
            let zero = if comptime!(form.zeros) { f32::cast_from(zeros[group]) } else { f32::new(form.middle()) };
            // Past the end of the row all is zero.
            let scale = select(inside, f32::cast_from(scales[group]), 0.0f32);
            #[unroll]
            for load in 0..comptime!(form.loads()) {
                let mut values = Vector::<f32, N>::zero();
                #[unroll]
                for i in 0..4 {
                    let shift = comptime!(((load * 4 + i) * form.bits) as u32);
                    let integer = (word >> shift) & comptime!(form.mask());
                    values.insert(i, (f32::cast_from(integer) - zero) * scale);
                }
                shared[column * tile.pitch() + at * form.loads() + load] = values;
            }
        }
    }
}

/// `x Wᵀ`, with the residual if there is one, of a tile of rows and outputs.
#[cube(launch)]
fn many<F: Float, N: Size>(
    x: &[Vector<F, N>],
    words: &[u32],
    scales: &[F],
    zeros: &[F],
    residual: &[F],
    out: &mut [F],
    rows: usize,
    outputs: usize,
    #[comptime] loads: usize,
    #[comptime] tile: Tile,
    #[comptime] form: Form,
    #[comptime] added: bool,
    #[define(F)] _dtype: ElemType,
) {
    let (unit, first) = (UNIT_POS as usize, CUBE_POS_Y as usize * comptime!(ROWS));
    let mut starts = Shared::<[u32]>::new_slice(comptime!(ROWS));
    if unit < comptime!(ROWS) {
        starts[unit] = (select(first + unit < rows, first + unit, rows - 1) * loads) as u32;
    }
    let column = CUBE_POS_X as usize * comptime!(COLUMNS);
    let mut left = Shared::<[Vector<f32, N>]>::new_slice(comptime!(tile.shared(0)));
    let mut right = Shared::<[Vector<f32, N>]>::new_slice(comptime!(tile.shared(1)));
    let mut sums = Array::<Vector<f32, N>>::new(comptime!(tile.products()));
    clear::<N>(&mut sums, comptime!(tile.products()));
    for step in 0..comptime!(tile.steps(loads)) {
        sync_cube();
        stage_left::<F, N>(x, &starts, &mut left, step, loads, tile);
        stage_packed::<F, N>(words, scales, zeros, column, outputs - 1 - column, &mut right, step, tile, form);
        sync_cube();
        multiply::<N>(&left, &right, &mut sums, tile);
    }
    #[unroll]
    for i in 0..comptime!(tile.of_unit[0]) {
        let row = first + left_row(i, tile);
        #[unroll]
        for j in 0..comptime!(tile.of_unit[1]) {
            let output = column + right_row(j, tile);
            if row < rows && output < outputs {
                let at = row * outputs + output;
                let sum = Vector::vector_sum(sums[comptime!(i * tile.of_unit[1] + j)]);
                let sum = if comptime!(added) { f32::cast_from(residual[at]) + sum } else { sum };
                out[at] = F::cast_from(sum);
            }
        }
    }
}

/// `x Wᵀ` of many rows, with the residual if there is one.
pub(crate) fn linear(x: &Tensor<2>, residual: Option<&Tensor<2>>, matrix: &Packed) -> Option<Tensor<2>> {
    let ([rows, width], [outputs, input], dtype) = (x.dims(), matrix.shape(), x.dtype());
    let fits = residual.is_none_or(|y| y.dims() == [rows, outputs] && y.dtype() == dtype);
    let few_enough = (1..=MOST_ROWS).contains(&rows) && width == input && matrix.scales.dtype() == dtype;
    let form = Form::new(matrix).filter(|_| fits && few_enough && outputs > 0)?;
    let x = floats(x)?;
    let (client, columns) = (x.client.clone(), outputs.div_ceil(COLUMNS));
    // A word is unpacked to loads of 4 numbers.
    let by = load_size(&client, dtype, width);
    let tile = Tile::new([ROWS, COLUMNS], [4, 4], by);
    let units = client.properties().hardware.max_units_per_cube as usize;
    if by != 4 || columns > MOST_CUBES || tile.units() > units {
        return None;
    }
    // Every buffer must be bound; without a residual the kernel does not read this one.
    let added = residual.map_or(Some(x.clone()), floats)?;
    let ([words, scales, zeros], out) = (buffers(matrix)?, empty(&x, [rows, outputs], dtype));
    many::launch(
        &client,
        CubeCount::Static(columns as u32, rows.div_ceil(ROWS) as u32, 1),
        CubeDim::new_1d(tile.units() as u32),
        by,
        x.into_buffer_arg(),
        words.into_buffer_arg(),
        scales.into_buffer_arg(),
        zeros.into_buffer_arg(),
        added.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        rows,
        outputs,
        width / by,
        tile,
        form,
        residual.is_some(),
        dtype_to_storage_type(dtype),
    );
    Some(tensor(out))
}
