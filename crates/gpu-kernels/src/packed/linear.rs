//! Products of a few rows with packed matrices.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::product::{Format, output_row, product};
use super::{Packed, buffers};
use crate::PreNorm;
use crate::gate::kernel::silu;
use crate::launch::{MOST_CUBES, empty, floats, tensor};
use crate::linear::{MOST_NORMED_OUTPUTS, SKINNY_MAX_ROWS, keep_row, takes_norm, write_of_three};
use crate::norm::kernel::{Norm, normalise_row};
use crate::rows::sum_of_row;

/// Buffers of the kernels for one matrix, for a gate and for three matrices, sizes and numbers included.
const BINDINGS: [u32; 3] = [10, 11, 16];

/// Sizes that the compiler knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sizes {
    format: Format,
    /// How rows are normalised, if they are.
    norm: Norm,
    normed: bool,
}

impl Sizes {
    /// Numbers of shared memory that sums need.
    fn sums(&self) -> usize {
        let units = self.format.rows.units();
        if self.normed { units.max(self.norm.rows.units()) } else { units }
    }
}

#[cube(launch)]
fn of_one<F: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    words: &[u32],
    scales: &[F],
    zeros: &[F],
    residual: &[F],
    out: &mut [F],
    kept: &mut [Vector<F, N>],
    outputs: usize,
    eps: f32,
    #[comptime] sizes: Sizes,
    #[comptime] added: bool,
    #[define(F)] _dtype: ElemType,
) {
    let (row, y) = (output_row(sizes.format), CUBE_POS_Y as usize);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.sums()));
    let part = if comptime!(sizes.normed) {
        let mut normed = Shared::<[Vector<F, N>]>::new_slice(sizes.norm.loads);
        let units = comptime!(sizes.format.rows.units());
        normalise_row::<F, N>(x, y, weight, eps, &mut normed, &mut shared, sizes.norm, units);
        keep_row::<F, N>(&normed, y, kept, sizes.norm.loads, units);
        product::<F, F, N>(&normed, words, scales, zeros, 0usize, row, sizes.format)
    } else {
        product::<F, F, N>(x, words, scales, zeros, y * sizes.format.loads(), row, sizes.format)
    };
    let sum = sum_of_row(part, &mut shared, sizes.format.rows);
    if UNIT_POS_X == 0 {
        let at = y * outputs + row;
        let sum = if comptime!(added) { f32::cast_from(residual[at]) + sum } else { sum };
        out[at] = F::cast_from(sum);
    }
}

/// This unit's part of the product with a row of one of three matrices, one after the other along the grid.
#[cube]
fn product_of_three<F: Float, N: Size>(
    x: &[Vector<F, N>],
    x_at: usize,
    words: (&[u32], &[u32], &[u32]),
    scales: (&[F], &[F], &[F]),
    zeros: (&[F], &[F], &[F]),
    #[comptime] outputs: [usize; 3],
    #[comptime] format: Format,
) -> f32 {
    let row = output_row(format);
    let second = comptime!(outputs[0]);
    let third = comptime!(outputs[0] + outputs[1]);
    let mut sum = 0.0f32;
    if row < second {
        sum += product::<F, F, N>(x, words.0, scales.0, zeros.0, x_at, row, format);
    } else if row < third {
        sum += product::<F, F, N>(x, words.1, scales.1, zeros.1, x_at, row - second, format);
    } else {
        sum += product::<F, F, N>(x, words.2, scales.2, zeros.2, x_at, row - third, format);
    }
    sum
}

#[cube(launch)]
fn of_three<F: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    words_a: &[u32],
    scales_a: &[F],
    zeros_a: &[F],
    words_b: &[u32],
    scales_b: &[F],
    zeros_b: &[F],
    words_c: &[u32],
    scales_c: &[F],
    zeros_c: &[F],
    out_a: &mut [F],
    out_b: &mut [F],
    out_c: &mut [F],
    eps: f32,
    #[comptime] outputs: [usize; 3],
    #[comptime] sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let (y, row) = (CUBE_POS_Y as usize, output_row(sizes.format));
    let (words, scales) = ((words_a, words_b, words_c), (scales_a, scales_b, scales_c));
    let zeros = (zeros_a, zeros_b, zeros_c);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.sums()));
    let part = if comptime!(sizes.normed) {
        let mut normed = Shared::<[Vector<F, N>]>::new_slice(sizes.norm.loads);
        let units = comptime!(sizes.format.rows.units());
        normalise_row::<F, N>(x, y, weight, eps, &mut normed, &mut shared, sizes.norm, units);
        product_of_three::<F, N>(&normed, 0usize, words, scales, zeros, outputs, sizes.format)
    } else {
        product_of_three::<F, N>(x, y * sizes.format.loads(), words, scales, zeros, outputs, sizes.format)
    };
    let sum = F::cast_from(sum_of_row(part, &mut shared, sizes.format.rows));
    write_of_three::<F>(sum, y, row, out_a, out_b, out_c, outputs);
}

/// `silu(gate · x) · (up · x)`, after a norm if there is one.
#[cube(launch)]
fn gated<F: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    gate_words: &[u32],
    gate_scales: &[F],
    gate_zeros: &[F],
    up_words: &[u32],
    up_scales: &[F],
    up_zeros: &[F],
    out: &mut [F],
    outputs: usize,
    eps: f32,
    #[comptime] sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let (row, y) = (output_row(sizes.format), CUBE_POS_Y as usize);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.sums()));
    let (gate, up) = if comptime!(sizes.normed) {
        let mut normed = Shared::<[Vector<F, N>]>::new_slice(sizes.norm.loads);
        let units = comptime!(sizes.format.rows.units());
        normalise_row::<F, N>(x, y, weight, eps, &mut normed, &mut shared, sizes.norm, units);
        (
            product::<F, F, N>(&normed, gate_words, gate_scales, gate_zeros, 0usize, row, sizes.format),
            product::<F, F, N>(&normed, up_words, up_scales, up_zeros, 0usize, row, sizes.format),
        )
    } else {
        let at = y * sizes.format.loads();
        (
            product::<F, F, N>(x, gate_words, gate_scales, gate_zeros, at, row, sizes.format),
            product::<F, F, N>(x, up_words, up_scales, up_zeros, at, row, sizes.format),
        )
    };
    let gate = sum_of_row(gate, &mut shared, sizes.format.rows);
    let up = sum_of_row(up, &mut shared, sizes.format.rows);
    if UNIT_POS_X == 0 {
        let gate = Vector::vector_sum(silu::<Const<1>>(Vector::<f32, Const<1>>::new(gate)));
        out[y * outputs + row] = F::cast_from(gate * up);
    }
}

/// What the launches of a few rows have in common.
struct Skinny {
    client: Client,
    x: CubeTensor,
    rows: usize,
    sizes: Sizes,
    /// The weight of the norm, or a placeholder that is not read.
    weight: CubeTensor,
    eps: f32,
    outputs: Vec<usize>,
}

impl Skinny {
    /// `None` for what no kernel takes: many rows, or matrices that are packed differently.
    fn new(x: &Tensor<2>, norm: Option<&PreNorm>, matrices: &[&Packed]) -> Option<Self> {
        let ([rows, width], dtype) = (x.dims(), x.dtype());
        let fits = |matrix: &&Packed| matrix.shape()[1] == width && matrix.scales.dtype() == dtype;
        let outputs: Vec<usize> = matrices.iter().map(|matrix| matrix.shape()[0]).collect();
        let fits = (1..=SKINNY_MAX_ROWS).contains(&rows) && matrices.iter().all(fits);
        let norm_fits = |norm| takes_norm(x, norm) && outputs.iter().sum::<usize>() <= MOST_NORMED_OUTPUTS;
        if !fits || !norm.is_none_or(norm_fits) {
            return None;
        }
        let x = floats(x)?;
        let client = x.client.clone();
        if client.properties().hardware.max_bindings < BINDINGS[matrices.len() - 1] {
            return None;
        }
        let format = |matrix: &&Packed| Format::new(&client, matrix, &outputs, dtype);
        let first = format(matrices.first()?)?;
        let alike = matrices.iter().all(|matrix| format(matrix) == Some(first));
        let loads = first.loads();
        let sizes = Sizes { format: first, norm: Norm::new(&client, width, loads), normed: norm.is_some() };
        let in_grid = outputs.iter().sum::<usize>() / first.rows.per_cube <= MOST_CUBES;
        // A plane that adds up a row in the norm must be one that has a row of the product.
        let planes = !sizes.norm.rows.planes || (first.rows.planes && first.rows.lanes == sizes.norm.rows.lanes);
        if !alike || !in_grid || (norm.is_some() && !planes) {
            return None;
        }
        let weight = norm.map_or(Some(x.clone()), |norm| floats(&norm.weight))?;
        let eps = norm.map_or(0.0, |norm| norm.eps as f32);
        Some(Self { client, x, rows, sizes, weight, eps, outputs })
    }

    fn grid(&self) -> CubeCount {
        let rows: usize = self.outputs.iter().sum();
        CubeCount::Static((rows / self.sizes.format.rows.per_cube) as u32, self.rows as u32, 1)
    }

    fn output(&self, outputs: usize) -> CubeTensor {
        empty(&self.x, [self.rows, outputs], self.x.dtype)
    }
}

/// The products with one matrix or three, and the normalised rows if they were made.
pub(super) fn linear<const M: usize>(
    x: &Tensor<2>,
    norm: Option<&PreNorm>,
    matrices: [&Packed; M],
) -> Option<([Tensor<2>; M], Option<Tensor<2>>)> {
    let (outputs, kept): (Vec<Tensor<2>>, _) = match matrices.as_slice() {
        [only] => launch_one(x, norm, None, only).map(|(y, kept)| (vec![y], kept))?,
        [a, b, c] => (launch_three(x, norm, [a, b, c])?.into(), None),
        _ => return None,
    };
    Some((outputs.try_into().ok()?, kept))
}

/// The product with one matrix, with the residual if there is one.
pub(super) fn one(x: &Tensor<2>, residual: Option<&Tensor<2>>, matrix: &Packed) -> Option<Tensor<2>> {
    Some(launch_one(x, None, residual, matrix)?.0)
}

fn launch_one(
    x: &Tensor<2>,
    norm: Option<&PreNorm>,
    residual: Option<&Tensor<2>>,
    matrix: &Packed,
) -> Option<(Tensor<2>, Option<Tensor<2>>)> {
    let skinny = Skinny::new(x, norm, &[matrix])?;
    let ([rows, width], [outputs]): (_, [usize; 1]) = (x.dims(), skinny.outputs.as_slice().try_into().ok()?);
    let fits = |y: &&Tensor<2>| y.dims() == [rows, outputs] && y.dtype() == x.dtype();
    if residual.is_some_and(|y| !fits(&y)) {
        return None;
    }
    let added = residual.map_or(Some(skinny.x.clone()), floats)?;
    let out = skinny.output(outputs);
    let kept = norm.map(|_| empty(&skinny.x, [rows, width], skinny.x.dtype));
    let [words, scales, zeros] = buffers(matrix)?;
    of_one::launch(
        &skinny.client,
        skinny.grid(),
        skinny.sizes.format.rows.cube_dim(),
        skinny.sizes.format.by,
        skinny.x.clone().into_buffer_arg(),
        skinny.weight.clone().into_buffer_arg(),
        words.into_buffer_arg(),
        scales.into_buffer_arg(),
        zeros.into_buffer_arg(),
        added.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        kept.clone().unwrap_or_else(|| out.clone()).into_buffer_arg(),
        outputs,
        skinny.eps,
        skinny.sizes,
        residual.is_some(),
        dtype_to_storage_type(skinny.x.dtype),
    );
    Some((tensor(out), kept.map(tensor)))
}

fn launch_three(x: &Tensor<2>, norm: Option<&PreNorm>, matrices: [&Packed; 3]) -> Option<[Tensor<2>; 3]> {
    let skinny = Skinny::new(x, norm, &matrices)?;
    let outputs: [usize; 3] = skinny.outputs.as_slice().try_into().ok()?;
    let made = outputs.map(|outputs| skinny.output(outputs));
    let [a, b, c] = matrices.map(buffers);
    let ([words_a, scales_a, zeros_a], [words_b, scales_b, zeros_b], [words_c, scales_c, zeros_c]) = (a?, b?, c?);
    let [out_a, out_b, out_c] = made.clone();
    of_three::launch(
        &skinny.client,
        skinny.grid(),
        skinny.sizes.format.rows.cube_dim(),
        skinny.sizes.format.by,
        skinny.x.clone().into_buffer_arg(),
        skinny.weight.clone().into_buffer_arg(),
        words_a.into_buffer_arg(),
        scales_a.into_buffer_arg(),
        zeros_a.into_buffer_arg(),
        words_b.into_buffer_arg(),
        scales_b.into_buffer_arg(),
        zeros_b.into_buffer_arg(),
        words_c.into_buffer_arg(),
        scales_c.into_buffer_arg(),
        zeros_c.into_buffer_arg(),
        out_a.into_buffer_arg(),
        out_b.into_buffer_arg(),
        out_c.into_buffer_arg(),
        skinny.eps,
        outputs,
        skinny.sizes,
        dtype_to_storage_type(skinny.x.dtype),
    );
    Some(made.map(tensor))
}

/// `silu(x Gᵀ) · x Uᵀ`, after a norm if there is one.
pub(super) fn gate(x: &Tensor<2>, norm: Option<&PreNorm>, [gate, up]: [&Packed; 2]) -> Option<Tensor<2>> {
    let mut skinny = Skinny::new(x, norm, &[gate, up]).filter(|_| gate.shape() == up.shape())?;
    // Each row of the grid computes gate and up.
    skinny.outputs.truncate(1);
    let outputs = skinny.outputs[0];
    let out = skinny.output(outputs);
    let (gate, up) = (buffers(gate)?, buffers(up)?);
    let ([gate_words, gate_scales, gate_zeros], [up_words, up_scales, up_zeros]) = (gate, up);
    gated::launch(
        &skinny.client,
        skinny.grid(),
        skinny.sizes.format.rows.cube_dim(),
        skinny.sizes.format.by,
        skinny.x.clone().into_buffer_arg(),
        skinny.weight.clone().into_buffer_arg(),
        gate_words.into_buffer_arg(),
        gate_scales.into_buffer_arg(),
        gate_zeros.into_buffer_arg(),
        up_words.into_buffer_arg(),
        up_scales.into_buffer_arg(),
        up_zeros.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        outputs,
        skinny.eps,
        skinny.sizes,
        dtype_to_storage_type(skinny.x.dtype),
    );
    Some(tensor(out))
}
