use burn::tensor::{Int, Tensor};

/// The stacked matrices of all experts of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Matrices<'a> {
    /// `[E, 2 * I, D]`, gate above up.
    pub gate_up: &'a Tensor<3>,
    /// `[E, D, I]`.
    pub down: &'a Tensor<3>,
}

/// `residual + Σ weight · down(silu(gate(x)) · up(x))` over the chosen experts of each row, for a few rows: two launches that read
/// the chosen matrices where they lie.
///
/// # Shapes
/// `residual` and `x` `[N, D]`, `index` and `weights` `[N, k]` → `[N, D]`.
pub fn experts(
    residual: Tensor<2>,
    x: Tensor<2>,
    index: Tensor<2, Int>,
    weights: Tensor<2>,
    matrices: Matrices,
) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::experts(&residual, &x, &index, &weights, matrices) {
        return y;
    }
    plain(residual, x, index, weights, matrices)
}

/// [`experts`] in plain operations: the chosen matrices are copied out, then multiplied.
pub fn plain(
    residual: Tensor<2>,
    x: Tensor<2>,
    index: Tensor<2, Int>,
    weights: Tensor<2>,
    Matrices { gate_up, down }: Matrices,
) -> Tensor<2> {
    let ([rows, top_k], [_, width]) = (index.dims(), x.dims());
    let index = index.reshape([rows * top_k]);
    let x = x.unsqueeze_dim::<3>(1).repeat_dim(1, top_k).reshape([rows * top_k, 1, width]);
    let gate_up = x.matmul(gate_up.clone().select(0, index.clone()).swap_dims(1, 2)).squeeze_dim::<2>(1);
    let inner = gate_up.dims()[1] / 2;
    let hidden = crate::gate::plain(gate_up.clone().narrow(1, 0, inner), gate_up.narrow(1, inner, inner));
    let outputs = hidden.unsqueeze_dim::<3>(1).matmul(down.clone().select(0, index).swap_dims(1, 2)); // [N * k, 1, D]
    let weights = weights.reshape([rows, 1, top_k]);
    residual + weights.matmul(outputs.reshape([rows, top_k, width])).reshape([rows, width])
}

#[cfg(cube)]
pub(crate) mod kernel {
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::{DType, Int, Tensor};
    use cubecl::client::Client;
    use cubecl::prelude::*;

    use super::Matrices;
    use crate::gate::kernel::silu;
    use crate::launch::{empty, floats, integers, tensor, vector_size};
    use crate::rows::{Rows, sum_of_row};

    /// Sizes that the compiler knows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Sizes {
        experts: usize,
        top_k: usize,
        inner: usize,
        width: usize,
        /// Loads of one row of the matrix.
        loads: usize,
        rows: Rows,
    }

    impl Sizes {
        fn steps(&self) -> usize {
            self.loads.div_ceil(self.rows.lanes)
        }

        fn even(&self) -> bool {
            self.loads.is_multiple_of(self.rows.lanes)
        }
    }

    /// The expert of a pair of row and choice. An id outside the layer, which no router makes, reads the last expert.
    #[cube]
    pub(crate) fn expert_of(index: &[i32], pair: usize, #[comptime] experts: usize) -> usize {
        let id = u32::cast_from(index[pair]);
        usize::cast_from(select(id < comptime!(experts as u32), id, comptime!(experts as u32 - 1)))
    }

    /// `silu(gate · x) * (up · x)`: the lanes of a row compute one inner number of one pair.
    #[cube(launch)]
    fn gate_up<F: Float, N: Size>(
        x: &[Vector<F, N>],
        index: &[i32],
        matrix: &[Vector<F, N>],
        out: &mut [f32],
        #[comptime] sizes: Sizes,
        #[define(F)] _dtype: ElemType,
    ) {
        let (row, pair) = (CUBE_POS_X as usize * sizes.rows.per_cube + UNIT_POS_Y as usize, CUBE_POS_Y as usize);
        let x_at = pair / sizes.top_k * sizes.loads;
        let gate_at = (expert_of(index, pair, sizes.experts) * comptime!(2 * sizes.inner) + row) * sizes.loads;
        let up_at = gate_at + comptime!(sizes.inner * sizes.loads);
        let mut gate = Vector::<f32, N>::zero();
        let mut up = Vector::<f32, N>::zero();
        #[unroll]
        for step in 0..comptime!(sizes.steps()) {
            let i = step * sizes.rows.lanes + UNIT_POS_X as usize;
            if comptime!(sizes.even()) || i < sizes.loads {
                let values = Vector::<f32, N>::cast_from(x[x_at + i]);
                gate += Vector::<f32, N>::cast_from(matrix[gate_at + i]) * values;
                up += Vector::<f32, N>::cast_from(matrix[up_at + i]) * values;
            }
        }
        let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.rows.units()));
        let gate = sum_of_row(Vector::vector_sum(gate), &mut shared, sizes.rows);
        let up = sum_of_row(Vector::vector_sum(up), &mut shared, sizes.rows);
        if UNIT_POS_X == 0 {
            let gate = Vector::<f32, Const<1>>::new(gate);
            out[pair * sizes.inner + row] = Vector::vector_sum(silu::<Const<1>>(gate)) * up;
        }
    }

    /// `residual + Σ weight · down · hidden`: the lanes of a row compute one output of one row of `x`, its experts one after the other,
    /// so that nothing has to be added up in memory and the order of the sum is always the same.
    #[cube(launch)]
    fn down<F: Float, N: Size>(
        hidden: &[Vector<f32, N>],
        index: &[i32],
        weights: &[F],
        matrix: &[Vector<F, N>],
        residual: &[F],
        out: &mut [F],
        #[comptime] sizes: Sizes,
        #[define(F)] _dtype: ElemType,
    ) {
        let (row, token) = (CUBE_POS_X as usize * sizes.rows.per_cube + UNIT_POS_Y as usize, CUBE_POS_Y as usize);
        let mut total = Vector::<f32, N>::zero();
        #[unroll]
        for choice in 0..sizes.top_k {
            let pair = token * sizes.top_k + choice;
            let weight = Vector::<f32, N>::new(f32::cast_from(weights[pair]));
            let at = (expert_of(index, pair, sizes.experts) * sizes.width + row) * sizes.loads;
            #[unroll]
            for step in 0..comptime!(sizes.steps()) {
                let i = step * sizes.rows.lanes + UNIT_POS_X as usize;
                if comptime!(sizes.even()) || i < sizes.loads {
                    total += Vector::<f32, N>::cast_from(matrix[at + i]) * (hidden[pair * sizes.loads + i] * weight);
                }
            }
        }
        let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.rows.units()));
        let total = sum_of_row(Vector::vector_sum(total), &mut shared, sizes.rows);
        if UNIT_POS_X == 0 {
            let at = token * sizes.width + row;
            out[at] = F::cast_from(f32::cast_from(residual[at]) + total);
        }
    }

    /// Shares the `outputs` rows of a matrix such that no cube has too many.
    fn shared(client: &Client, outputs: usize, loads: usize) -> (Rows, u32) {
        let rows = Rows::of_planes(client, loads);
        let per_cube = (1..=rows.per_cube).rev().find(|count| outputs.is_multiple_of(*count)).unwrap_or(1);
        (Rows { per_cube, ..rows }, (outputs / per_cube) as u32)
    }

    pub(super) fn experts(
        residual: &Tensor<2>,
        x: &Tensor<2>,
        index: &Tensor<2, Int>,
        weights: &Tensor<2>,
        Matrices { gate_up, down }: Matrices,
    ) -> Option<Tensor<2>> {
        let ([count, top_k], [experts, width, inner]) = (index.dims(), down.dims());
        let shapes = residual.dims() == [count, width]
            && x.dims() == [count, width]
            && weights.dims() == [count, top_k]
            && gate_up.dims() == [experts, 2 * inner, width];
        let dtype = x.dtype();
        let dtypes = [residual.dtype(), weights.dtype(), gate_up.dtype(), down.dtype()] == [dtype; 4];
        if !shapes || !dtypes || count * top_k * experts * inner * width == 0 {
            return None;
        }
        let (residual, x, weights, index) = (floats(residual)?, floats(x)?, floats(weights)?, integers(index)?);
        let (gate_up, down) = (floats(gate_up)?, floats(down)?);
        let (client, elem) = (x.client.clone(), dtype_to_storage_type(dtype));

        let by = vector_size(&client, dtype, width);
        let (rows, cubes) = shared(&client, inner, width / by);
        let sizes = Sizes { experts, top_k, inner, width, loads: width / by, rows };
        let hidden = empty(&x, [count * top_k, inner], DType::F32);
        self::gate_up::launch(
            &client,
            CubeCount::Static(cubes, (count * top_k) as u32, 1),
            rows.cube_dim(),
            by,
            x.into_buffer_arg(),
            index.clone().into_buffer_arg(),
            gate_up.into_buffer_arg(),
            hidden.clone().into_buffer_arg(),
            sizes,
            elem,
        );

        // The hidden numbers are f32, so a load of them has at most as many as one of f32.
        let by = vector_size(&client, DType::F32, inner).min(vector_size(&client, dtype, inner));
        let (rows, cubes) = shared(&client, width, inner / by);
        let out = empty(&residual, [count, width], dtype);
        self::down::launch(
            &client,
            CubeCount::Static(cubes, count as u32, 1),
            rows.cube_dim(),
            by,
            hidden.into_buffer_arg(),
            index.into_buffer_arg(),
            weights.into_buffer_arg(),
            down.into_buffer_arg(),
            residual.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            Sizes { loads: inner / by, rows, ..sizes },
            elem,
        );
        Some(tensor(out))
    }
}
