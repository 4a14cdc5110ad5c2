//! The chosen experts of a few rows, pair by pair, of packed matrices.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Int, Tensor};
use cubecl::prelude::*;

use super::product::{Format, output_row, product};
use super::{PackedMatrices, buffers};
use crate::experts::kernel::expert_of;
use crate::gate::kernel::silu;
use crate::launch::{empty, floats, integers, tensor};
use crate::rows::sum_of_row;

#[cube(launch)]
fn gate_up<F: Float, N: Size>(
    x: &[Vector<F, N>],
    index: &[i32],
    words: &[u32],
    scales: &[F],
    zeros: &[F],
    out: &mut [f32],
    #[comptime] sizes: Sizes,
    #[comptime] format: Format,
    #[define(F)] _dtype: ElemType,
) {
    let (row, pair) = (output_row(format), CUBE_POS_Y as usize);
    let x_at = pair / sizes.top_k * format.loads();
    let gate_at = expert_of(index, pair, sizes.experts) * comptime!(2 * sizes.inner) + row;
    let mut shared = Shared::<[f32]>::new_slice(comptime!(format.rows.units()));
    let gate = product::<F, F, N>(x, words, scales, zeros, x_at, gate_at, format);
    let up = product::<F, F, N>(x, words, scales, zeros, x_at, gate_at + sizes.inner, format);
    let gate = sum_of_row(gate, &mut shared, format.rows);
    let up = sum_of_row(up, &mut shared, format.rows);
    if UNIT_POS_X == 0 {
        let gate = Vector::vector_sum(silu::<Const<1>>(Vector::<f32, Const<1>>::new(gate)));
        out[pair * sizes.inner + row] = gate * up;
    }
}

#[cube(launch)]
fn down<F: Float, N: Size>(
    hidden: &[Vector<f32, N>],
    index: &[i32],
    weights: &[F],
    words: &[u32],
    scales: &[F],
    zeros: &[F],
    residual: &[F],
    out: &mut [F],
    #[comptime] sizes: Sizes,
    #[comptime] format: Format,
    #[define(F)] _dtype: ElemType,
) {
    let (row, token) = (output_row(format), CUBE_POS_Y as usize);
    let mut total = 0.0f32;
    for choice in 0..sizes.top_k {
        let pair = token * sizes.top_k + choice;
        let matrix_row = expert_of(index, pair, sizes.experts) * sizes.width + row;
        let part = product::<f32, F, N>(hidden, words, scales, zeros, pair * format.loads(), matrix_row, format);
        total += part * f32::cast_from(weights[pair]);
    }
    let mut shared = Shared::<[f32]>::new_slice(comptime!(format.rows.units()));
    let total = sum_of_row(total, &mut shared, format.rows);
    if UNIT_POS_X == 0 {
        let at = token * sizes.width + row;
        out[at] = F::cast_from(f32::cast_from(residual[at]) + total);
    }
}

/// Sizes of a layer of experts, known to the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sizes {
    experts: usize,
    top_k: usize,
    inner: usize,
    width: usize,
}

pub(super) fn experts(
    residual: &Tensor<2>,
    x: &Tensor<2>,
    (index, weights): (&Tensor<2, Int>, &Tensor<2>),
    PackedMatrices { gate_up, down }: &PackedMatrices,
) -> Option<Tensor<2>> {
    let ([count, top_k], [rows, inner], width) = (index.dims(), down.shape(), x.dims()[1]);
    let experts = rows / width.max(1);
    let shapes = residual.dims() == [count, width]
        && x.dims() == [count, width]
        && weights.dims() == [count, top_k]
        && rows == experts * width
        && gate_up.shape() == [experts * 2 * inner, width];
    let dtypes = [residual, weights, gate_up.scales, down.scales].iter().all(|other| other.dtype() == x.dtype());
    if !shapes || !dtypes || count * top_k * experts * inner == 0 {
        return None;
    }
    let (residual, x, weights, index) = (floats(residual)?, floats(x)?, floats(weights)?, integers(index)?);
    let (client, elem) = (x.client.clone(), dtype_to_storage_type(x.dtype));
    let sizes = Sizes { experts, top_k, inner, width };
    let (into, back) =
        (Format::new(&client, gate_up, &[inner], x.dtype)?, Format::new(&client, down, &[width], DType::F32)?);
    let ([words, scales, zeros], [words_back, scales_back, zeros_back]) = (buffers(gate_up)?, buffers(down)?);
    let hidden = empty(&x, [count * top_k, inner], DType::F32);
    self::gate_up::launch(
        &client,
        CubeCount::Static((inner / into.rows.per_cube) as u32, (count * top_k) as u32, 1),
        into.rows.cube_dim(),
        into.by,
        x.into_buffer_arg(),
        index.clone().into_buffer_arg(),
        words.into_buffer_arg(),
        scales.into_buffer_arg(),
        zeros.into_buffer_arg(),
        hidden.clone().into_buffer_arg(),
        sizes,
        into,
        elem,
    );
    let out = empty(&residual, [count, width], residual.dtype);
    self::down::launch(
        &client,
        CubeCount::Static((width / back.rows.per_cube) as u32, count as u32, 1),
        back.rows.cube_dim(),
        back.by,
        hidden.into_buffer_arg(),
        index.into_buffer_arg(),
        weights.into_buffer_arg(),
        words_back.into_buffer_arg(),
        scales_back.into_buffer_arg(),
        zeros_back.into_buffer_arg(),
        residual.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        sizes,
        back,
        elem,
    );
    Some(tensor(out))
}
