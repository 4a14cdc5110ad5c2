//! The products of a few rows, each output row by some units of a cube.

use burn::backend::Cube;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::SKINNY_MAX_ROWS;
use crate::PreNorm;
use crate::gate::kernel::silu;
use crate::launch::{MOST_CUBES, empty, floats, tensor, vector_size};
use crate::norm::kernel::{Norm, normalise_row};
use crate::rows::{Rows, sum_of_row};

/// Most outputs of a product that normalises its rows. Each cube normalises them again; with more cubes that costs more than a launch of
/// its own, by calculation.
pub(crate) const MOST_NORMED_OUTPUTS: usize = 16_384;

/// Sizes that the compiler knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sizes {
    /// Loads of one row.
    loads: usize,
    rows: Rows,
    /// How rows are normalised, if they are.
    norm: Norm,
    normed: bool,
}

impl Sizes {
    /// Numbers of shared memory that sums need.
    fn sums(&self) -> usize {
        if self.normed { self.rows.units().max(self.norm.rows.units()) } else { self.rows.units() }
    }

    fn steps(&self) -> usize {
        self.loads.div_ceil(self.rows.lanes)
    }
}

/// This unit's part of the product of a row of the matrix with the row that begins at `x_at`.
#[cube]
fn product<F: Float, N: Size>(
    x: &[Vector<F, N>],
    x_at: usize,
    matrix: &[Vector<F, N>],
    row: usize,
    #[comptime] sizes: Sizes,
) -> f32 {
    let at = row * sizes.loads;
    let mut sum = Vector::<f32, N>::zero();
    #[unroll]
    for step in 0..comptime!(sizes.steps()) {
        let i = step * sizes.rows.lanes + UNIT_POS_X as usize;
        if comptime!(sizes.loads.is_multiple_of(sizes.rows.lanes)) || i < sizes.loads {
            sum += Vector::<f32, N>::cast_from(matrix[at + i]) * Vector::<f32, N>::cast_from(x[x_at + i]);
        }
    }
    Vector::vector_sum(sum)
}

/// The row of the outputs that this unit computes a part of.
#[cube]
fn output_row(#[comptime] sizes: Sizes) -> usize {
    CUBE_POS_X as usize * sizes.rows.per_cube + UNIT_POS_Y as usize
}

#[cube(launch)]
fn one<F: Float, N: Size>(
    x: &[Vector<F, N>],
    matrix: &[Vector<F, N>],
    residual: &[F],
    scale: &[F],
    out: &mut [F],
    outputs: usize,
    #[comptime] sizes: Sizes,
    #[comptime] added: bool,
    #[comptime] scaled: bool,
    #[define(F)] _dtype: ElemType,
) {
    let (row, x_at) = (output_row(sizes), CUBE_POS_Y as usize * sizes.loads);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.sums()));
    let sum = sum_of_row(product::<F, N>(x, x_at, matrix, row, sizes), &mut shared, sizes.rows);
    if UNIT_POS_X == 0 {
        let at = CUBE_POS_Y as usize * outputs + row;
        let scaled = if comptime!(scaled) { sum * f32::cast_from(scale[row]) } else { sum };
        let added = if comptime!(added) { f32::cast_from(residual[at]) + scaled } else { scaled };
        out[at] = F::cast_from(added);
    }
}

/// One matrix, after a norm whose result is kept: the first cubes write it.
#[cube(launch)]
fn one_normed<F: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    matrix: &[Vector<F, N>],
    out: &mut [F],
    kept: &mut [Vector<F, N>],
    outputs: usize,
    eps: f32,
    #[comptime] sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let y = CUBE_POS_Y as usize;
    let units = comptime!(sizes.rows.units());
    let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.sums()));
    let mut normed = Shared::<[Vector<F, N>]>::new_slice(sizes.loads);
    normalise_row::<F, N>(x, y, weight, eps, &mut normed, &mut shared, sizes.norm, units);
    let row = output_row(sizes);
    let sum = sum_of_row(product::<F, N>(&normed, 0usize, matrix, row, sizes), &mut shared, sizes.rows);
    if UNIT_POS_X == 0 {
        out[y * outputs + row] = F::cast_from(sum);
    }
    keep_row::<F, N>(&normed, y, kept, sizes.loads, units);
}

/// Writes the normalised row. Every cube has computed it; only the cube of the first outputs writes.
#[cube]
pub(crate) fn keep_row<F: Float, N: Size>(
    normed: &Shared<[Vector<F, N>]>,
    row: usize,
    kept: &mut [Vector<F, N>],
    #[comptime] loads: usize,
    #[comptime] units: usize,
) {
    if CUBE_POS_X == 0 {
        #[unroll]
        for turn in 0..comptime!(loads.div_ceil(units)) {
            let i = turn * units + UNIT_POS as usize;
            if i < loads {
                kept[row * loads + i] = normed[i];
            }
        }
    }
}

/// This unit's part of the product with a row of one of three matrices, one after the other along the grid.
#[cube]
fn product_of_three<F: Float, N: Size>(
    x: &[Vector<F, N>],
    x_at: usize,
    a: &[Vector<F, N>],
    b: &[Vector<F, N>],
    c: &[Vector<F, N>],
    #[comptime] outputs: [usize; 3],
    #[comptime] sizes: Sizes,
) -> f32 {
    let row = output_row(sizes);
    let second = comptime!(outputs[0]);
    let third = comptime!(outputs[0] + outputs[1]);
    let mut sum = 0.0f32;
    if row < second {
        sum += product::<F, N>(x, x_at, a, row, sizes);
    } else if row < third {
        sum += product::<F, N>(x, x_at, b, row - second, sizes);
    } else {
        sum += product::<F, N>(x, x_at, c, row - third, sizes);
    }
    sum
}

/// Three matrices, after a norm if there is one.
#[cube(launch)]
fn three<F: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    a: &[Vector<F, N>],
    b: &[Vector<F, N>],
    c: &[Vector<F, N>],
    out_a: &mut [F],
    out_b: &mut [F],
    out_c: &mut [F],
    eps: f32,
    #[comptime] outputs: [usize; 3],
    #[comptime] sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let y = CUBE_POS_Y as usize;
    let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.sums()));
    let part = if comptime!(sizes.normed) {
        let mut normed = Shared::<[Vector<F, N>]>::new_slice(sizes.loads);
        let units = comptime!(sizes.rows.units());
        normalise_row::<F, N>(x, y, weight, eps, &mut normed, &mut shared, sizes.norm, units);
        product_of_three::<F, N>(&normed, 0usize, a, b, c, outputs, sizes)
    } else {
        product_of_three::<F, N>(x, y * sizes.loads, a, b, c, outputs, sizes)
    };
    let sum = F::cast_from(sum_of_row(part, &mut shared, sizes.rows));
    write_of_three::<F>(sum, y, output_row(sizes), out_a, out_b, out_c, outputs);
}

/// Writes an output of the row `y` of three matrices, one after the other along the grid.
#[cube]
pub(crate) fn write_of_three<F: Float>(
    sum: F,
    y: usize,
    row: usize,
    out_a: &mut [F],
    out_b: &mut [F],
    out_c: &mut [F],
    #[comptime] outputs: [usize; 3],
) {
    let second = comptime!(outputs[0]);
    let third = comptime!(outputs[0] + outputs[1]);
    if UNIT_POS_X == 0 {
        if row < second {
            out_a[y * second + row] = sum;
        } else if row < third {
            out_b[y * comptime!(outputs[1]) + row - second] = sum;
        } else {
            out_c[y * comptime!(outputs[2]) + row - third] = sum;
        }
    }
}

/// `silu(gate · x) · (up · x)`, after a norm if there is one.
#[cube(launch)]
fn gated<F: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    out: &mut [F],
    outputs: usize,
    eps: f32,
    #[comptime] sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let (row, y) = (output_row(sizes), CUBE_POS_Y as usize);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.sums()));
    let (gate, up) = if comptime!(sizes.normed) {
        let mut normed = Shared::<[Vector<F, N>]>::new_slice(sizes.loads);
        let units = comptime!(sizes.rows.units());
        normalise_row::<F, N>(x, y, weight, eps, &mut normed, &mut shared, sizes.norm, units);
        (product::<F, N>(&normed, 0usize, gate, row, sizes), product::<F, N>(&normed, 0usize, up, row, sizes))
    } else {
        let at = y * sizes.loads;
        (product::<F, N>(x, at, gate, row, sizes), product::<F, N>(x, at, up, row, sizes))
    };
    let gate = sum_of_row(gate, &mut shared, sizes.rows);
    let up = sum_of_row(up, &mut shared, sizes.rows);
    if UNIT_POS_X == 0 {
        let gate = Vector::vector_sum(silu::<Const<1>>(Vector::<f32, Const<1>>::new(gate)));
        out[y * outputs + row] = F::cast_from(gate * up);
    }
}

/// What the launches of a few rows have in common.
struct Skinny {
    client: Client,
    x: CubeTensor,
    matrices: Vec<CubeTensor>,
    rows: usize,
    by: usize,
    sizes: Sizes,
}

impl Skinny {
    /// `None` for what no kernel takes.
    fn new(x: &Tensor<2>, matrices: &[&Tensor<2>]) -> Option<Self> {
        let [rows, width] = x.dims();
        let fits = |matrix: &&Tensor<2>| matrix.dims()[1] == width && matrix.dtype() == x.dtype();
        let empty = rows * width == 0 || matrices.iter().any(|matrix| matrix.dims()[0] == 0);
        if empty || rows > SKINNY_MAX_ROWS || !matrices.iter().all(fits) {
            return None;
        }
        let outputs: Vec<usize> = matrices.iter().map(|matrix| matrix.dims()[0]).collect();
        let x = floats(x)?;
        let matrices = matrices.iter().map(|matrix| floats(matrix)).collect::<Option<Vec<_>>>()?;
        let client = x.client.clone();
        let by = vector_size(&client, x.dtype, width);
        let sharing = Rows::of_planes(&client, width / by);
        let whole = |count: &usize| outputs.iter().all(|outputs| outputs.is_multiple_of(*count));
        let per_cube = (1..=sharing.per_cube).rev().find(whole)?;
        let (loads, norm) = (width / by, Norm::new(&client, width, width / by));
        let sizes = Sizes { loads, rows: Rows { per_cube, ..sharing }, norm, normed: false };
        Some(Self { client, x, matrices, rows, by, sizes })
    }

    /// Also normalises the rows; returns the weight of the norm.
    fn normed(&mut self, norm: &PreNorm) -> Option<CubeTensor> {
        self.sizes.normed = true;
        let Sizes { norm: Norm { rows, .. }, .. } = self.sizes;
        let outputs: usize = self.matrices.iter().map(|matrix| matrix.meta.shape()[0]).sum();
        // A plane that adds up a row in the norm must be one that has a row of the product.
        let alike = !rows.planes || (self.sizes.rows.planes && self.sizes.rows.lanes == rows.lanes);
        (alike && outputs <= MOST_NORMED_OUTPUTS).then(|| floats(&norm.weight)).flatten()
    }

    /// [`Skinny::normed`] if there is a norm; otherwise what stands in for its weight, which then nothing reads.
    fn weight(&mut self, norm: Option<&PreNorm>) -> Option<CubeTensor> {
        norm.map_or(Some(self.x.clone()), |norm| self.normed(norm))
    }

    fn grid(&self, outputs: usize) -> Option<CubeCount> {
        let cubes = outputs / self.sizes.rows.per_cube;
        (cubes <= MOST_CUBES).then_some(CubeCount::Static(cubes as u32, self.rows as u32, 1))
    }

    fn output(&self, outputs: usize) -> CubeTensor {
        empty(&self.x, [self.rows, outputs], self.x.dtype)
    }
}

pub(super) fn linear<const M: usize>(x: &Tensor<2>, matrices: &[Tensor<2>; M]) -> Option<[Tensor<2>; M]> {
    let outputs: Vec<Tensor<2>> = match matrices.each_ref().as_slice() {
        [a, b, c] => linear_three(x, None, [a, b, c])?.into(),
        each => each.iter().map(|matrix| linear_one(x, matrix, None, None)).collect::<Option<_>>()?,
    };
    outputs.try_into().ok()
}

/// Whether the rows can be normalised in shared memory.
pub(super) fn takes_norm(x: &Tensor<2>, norm: &PreNorm) -> bool {
    let ([rows, width], dtype) = (x.dims(), x.dtype());
    let fits = norm.weight.dims() == [width] && norm.weight.dtype() == dtype;
    let few = (1..=SKINNY_MAX_ROWS).contains(&rows) && width > 0;
    // The row, and sums of at most this number of units.
    let memory = width * dtype.size() + 256 * size_of::<f32>();
    let has_memory = |x: CubeTensor| memory <= x.client.properties().hardware.max_shared_memory_size;
    fits && few && x.clone().try_into_primitive::<Cube>().is_ok_and(has_memory)
}

pub(super) fn norm_linear<const M: usize>(
    x: &Tensor<2>,
    norm: &PreNorm,
    matrices: &[Tensor<2>; M],
) -> Option<([Tensor<2>; M], Option<Tensor<2>>)> {
    let (outputs, kept): (Vec<Tensor<2>>, _) = match matrices.each_ref().as_slice() {
        [only] => one_after_norm(x, norm, only).map(|(y, kept)| (vec![y], Some(kept)))?,
        [a, b, c] => (linear_three(x, Some(norm), [a, b, c])?.into(), None),
        _ => return None,
    };
    Some((outputs.try_into().ok()?, kept))
}

fn one_after_norm(x: &Tensor<2>, norm: &PreNorm, matrix: &Tensor<2>) -> Option<(Tensor<2>, Tensor<2>)> {
    let [outputs, _] = matrix.dims();
    let mut skinny = Skinny::new(x, &[matrix]).filter(|_| takes_norm(x, norm))?;
    let weight = skinny.normed(norm)?;
    let grid = skinny.grid(outputs)?;
    let (out, kept) = (skinny.output(outputs), empty(&skinny.x, x.dims(), skinny.x.dtype));
    let [matrix]: [CubeTensor; 1] = skinny.matrices.try_into().ok()?;
    one_normed::launch(
        &skinny.client,
        grid,
        skinny.sizes.rows.cube_dim(),
        skinny.by,
        skinny.x.clone().into_buffer_arg(),
        weight.into_buffer_arg(),
        matrix.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        kept.clone().into_buffer_arg(),
        outputs,
        norm.eps as f32,
        skinny.sizes,
        dtype_to_storage_type(skinny.x.dtype),
    );
    Some((tensor(out), tensor(kept)))
}

fn linear_three(x: &Tensor<2>, norm: Option<&PreNorm>, matrices: [&Tensor<2>; 3]) -> Option<[Tensor<2>; 3]> {
    let outputs = matrices.map(|matrix| matrix.dims()[0]);
    let mut skinny = Skinny::new(x, &matrices).filter(|_| norm.is_none_or(|norm| takes_norm(x, norm)))?;
    let weight = skinny.weight(norm)?;
    let grid = skinny.grid(outputs.iter().sum())?;
    let made = outputs.map(|outputs| skinny.output(outputs));
    let [a, b, c]: [CubeTensor; 3] = skinny.matrices.try_into().ok()?;
    let [out_a, out_b, out_c] = made.clone();
    three::launch(
        &skinny.client,
        grid,
        skinny.sizes.rows.cube_dim(),
        skinny.by,
        skinny.x.clone().into_buffer_arg(),
        weight.into_buffer_arg(),
        a.into_buffer_arg(),
        b.into_buffer_arg(),
        c.into_buffer_arg(),
        out_a.into_buffer_arg(),
        out_b.into_buffer_arg(),
        out_c.into_buffer_arg(),
        norm.map_or(0.0, |norm| norm.eps as f32),
        outputs,
        skinny.sizes,
        dtype_to_storage_type(skinny.x.dtype),
    );
    Some(made.map(tensor))
}

fn linear_one(
    x: &Tensor<2>,
    matrix: &Tensor<2>,
    residual: Option<&Tensor<2>>,
    scale: Option<&Tensor<1>>,
) -> Option<Tensor<2>> {
    let [outputs, _] = matrix.dims();
    let rows = x.dims()[0];
    let fits = residual.is_none_or(|y| y.dims() == [rows, outputs] && y.dtype() == x.dtype())
        && scale.is_none_or(|scale| scale.dims() == [outputs] && scale.dtype() == x.dtype());
    let skinny = Skinny::new(x, &[matrix]).filter(|_| fits)?;
    let grid = skinny.grid(outputs)?;
    // Every buffer must be bound; the kernel does not read a residual or a scale that was not given.
    let added = residual.map_or(Some(skinny.x.clone()), floats)?;
    let scaled = scale.map_or(Some(skinny.x.clone()), floats)?;
    let out = skinny.output(outputs);
    let [matrix]: [CubeTensor; 1] = skinny.matrices.try_into().ok()?;
    one::launch(
        &skinny.client,
        grid,
        skinny.sizes.rows.cube_dim(),
        skinny.by,
        skinny.x.clone().into_buffer_arg(),
        matrix.into_buffer_arg(),
        added.into_buffer_arg(),
        scaled.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        outputs,
        skinny.sizes,
        residual.is_some(),
        scale.is_some(),
        dtype_to_storage_type(skinny.x.dtype),
    );
    Some(tensor(out))
}

pub(super) fn add_linear(
    residual: &Tensor<2>,
    x: &Tensor<2>,
    matrix: &Tensor<2>,
    scale: Option<&Tensor<1>>,
) -> Option<Tensor<2>> {
    linear_one(x, matrix, Some(residual), scale)
}

pub(super) fn linear_gate(
    x: &Tensor<2>,
    norm: Option<&PreNorm>,
    gate: &Tensor<2>,
    up: &Tensor<2>,
) -> Option<Tensor<2>> {
    let [outputs, _] = gate.dims();
    let mut skinny = Skinny::new(x, &[gate, up]).filter(|_| up.dims() == gate.dims())?;
    let weight = skinny.weight(norm).filter(|_| norm.is_none_or(|norm| takes_norm(x, norm)))?;
    let (grid, out) = (skinny.grid(outputs)?, skinny.output(outputs));
    let [gate, up]: [CubeTensor; 2] = skinny.matrices.try_into().ok()?;
    gated::launch(
        &skinny.client,
        grid,
        skinny.sizes.rows.cube_dim(),
        skinny.by,
        skinny.x.clone().into_buffer_arg(),
        weight.into_buffer_arg(),
        gate.into_buffer_arg(),
        up.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        outputs,
        norm.map_or(0.0, |norm| norm.eps as f32),
        skinny.sizes,
        dtype_to_storage_type(skinny.x.dtype),
    );
    Some(tensor(out))
}
