use burn::tensor::Tensor;

/// Most rows that go through the kernels: each reads the matrix again, from the cache of the GPU. More rows are a matter for GEMMs.
pub const SKINNY_MAX_ROWS: usize = 8;

/// `x Wᵀ` of several matrices `[out, D]`, in one launch for a few rows.
///
/// # Shapes
/// `[N, D]` → `[N, out]` each.
pub fn linear<const M: usize>(x: Tensor<2>, matrices: [Tensor<2>; M]) -> [Tensor<2>; M] {
    #[cfg(cube)]
    if let Some(outputs) = kernel::linear(&x, &matrices) {
        return outputs;
    }
    plain(x, matrices)
}

/// `residual + scale · (x Wᵀ)`, in one launch for a few rows.
///
/// # Shapes
/// `residual` `[N, out]`, `x` `[N, D]`, `matrix` `[out, D]`, `scale` `[out]` → `[N, out]`.
pub fn add_linear(residual: Tensor<2>, x: Tensor<2>, matrix: Tensor<2>, scale: Option<Tensor<1>>) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::add_linear(&residual, &x, &matrix, scale.as_ref()) {
        return y;
    }
    plain_add(residual, x, matrix, scale)
}

/// `silu(x Gᵀ) · x Uᵀ`, in one launch for a few rows.
///
/// # Shapes
/// `x` `[N, D]`, `gate` and `up` `[out, D]` → `[N, out]`.
pub fn linear_gate(x: Tensor<2>, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::linear_gate(&x, &gate, &up) {
        return y;
    }
    plain_gate(x, gate, up)
}

/// [`linear`] in plain operations.
pub fn plain<const M: usize>(x: Tensor<2>, matrices: [Tensor<2>; M]) -> [Tensor<2>; M] {
    matrices.map(|matrix| x.clone().matmul(matrix.transpose()))
}

/// [`add_linear`] in plain operations.
pub fn plain_add(residual: Tensor<2>, x: Tensor<2>, matrix: Tensor<2>, scale: Option<Tensor<1>>) -> Tensor<2> {
    let y = x.matmul(matrix.transpose());
    residual
        + match scale {
            Some(scale) => y * scale.unsqueeze(),
            None => y,
        }
}

/// [`linear_gate`] with plain matrix products; the gate itself is a kernel where there is one, because GEMMs of many rows come here.
pub fn plain_gate(x: Tensor<2>, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let [gate, up] = plain(x, [gate, up]);
    crate::silu_gate(gate, up)
}

#[cfg(cube)]
mod kernel {
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use burn_cubecl::tensor::CubeTensor;
    use cubecl::client::Client;
    use cubecl::prelude::*;

    use super::SKINNY_MAX_ROWS;
    use crate::gate::kernel::silu;
    use crate::launch::{MOST_CUBES, empty, floats, tensor, vector_size};
    use crate::rows::{Rows, sum_of_row};

    /// Sizes that the compiler knows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Sizes {
        /// Loads of one row.
        loads: usize,
        rows: Rows,
    }

    impl Sizes {
        fn steps(&self) -> usize {
            self.loads.div_ceil(self.rows.lanes)
        }
    }

    /// This unit's part of the product of a row of the matrix with a row of `x`.
    #[cube]
    fn product<F: Float, N: Size>(
        x: &[Vector<F, N>],
        matrix: &[Vector<F, N>],
        row: usize,
        #[comptime] sizes: Sizes,
    ) -> f32 {
        let (x_at, at) = (CUBE_POS_Y as usize * sizes.loads, row * sizes.loads);
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
        let row = CUBE_POS_X as usize * sizes.rows.per_cube + UNIT_POS_Y as usize;
        let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.rows.units()));
        let sum = sum_of_row(product::<F, N>(x, matrix, row, sizes), &mut shared, sizes.rows);
        if UNIT_POS_X == 0 {
            let at = CUBE_POS_Y as usize * outputs + row;
            let scaled = if comptime!(scaled) { sum * f32::cast_from(scale[row]) } else { sum };
            let added = if comptime!(added) { f32::cast_from(residual[at]) + scaled } else { scaled };
            out[at] = F::cast_from(added);
        }
    }

    /// Three matrices, one after the other along the grid.
    #[cube(launch)]
    fn three<F: Float, N: Size>(
        x: &[Vector<F, N>],
        a: &[Vector<F, N>],
        b: &[Vector<F, N>],
        c: &[Vector<F, N>],
        out_a: &mut [F],
        out_b: &mut [F],
        out_c: &mut [F],
        #[comptime] outputs: [usize; 3],
        #[comptime] sizes: Sizes,
        #[define(F)] _dtype: ElemType,
    ) {
        let row = CUBE_POS_X as usize * sizes.rows.per_cube + UNIT_POS_Y as usize;
        let second = comptime!(outputs[0]);
        let third = comptime!(outputs[0] + outputs[1]);
        let mut sum = 0.0f32;
        if row < second {
            sum += product::<F, N>(x, a, row, sizes);
        } else if row < third {
            sum += product::<F, N>(x, b, row - second, sizes);
        } else {
            sum += product::<F, N>(x, c, row - third, sizes);
        }
        let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.rows.units()));
        let sum = F::cast_from(sum_of_row(sum, &mut shared, sizes.rows));
        if UNIT_POS_X == 0 {
            let y = CUBE_POS_Y as usize;
            if row < second {
                out_a[y * second + row] = sum;
            } else if row < third {
                out_b[y * comptime!(outputs[1]) + row - second] = sum;
            } else {
                out_c[y * comptime!(outputs[2]) + row - third] = sum;
            }
        }
    }

    #[cube(launch)]
    fn gated<F: Float, N: Size>(
        x: &[Vector<F, N>],
        gate: &[Vector<F, N>],
        up: &[Vector<F, N>],
        out: &mut [F],
        outputs: usize,
        #[comptime] sizes: Sizes,
        #[define(F)] _dtype: ElemType,
    ) {
        let row = CUBE_POS_X as usize * sizes.rows.per_cube + UNIT_POS_Y as usize;
        let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.rows.units()));
        let gate = sum_of_row(product::<F, N>(x, gate, row, sizes), &mut shared, sizes.rows);
        let up = sum_of_row(product::<F, N>(x, up, row, sizes), &mut shared, sizes.rows);
        if UNIT_POS_X == 0 {
            let gate = Vector::vector_sum(silu::<Const<1>>(Vector::<f32, Const<1>>::new(gate)));
            out[CUBE_POS_Y as usize * outputs + row] = F::cast_from(gate * up);
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
            let sizes = Sizes { loads: width / by, rows: Rows { per_cube, ..sharing } };
            Some(Self { client, x, matrices, rows, by, sizes })
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
            [a, b, c] => linear_three(x, [a, b, c])?.into(),
            each => each.iter().map(|matrix| linear_one(x, matrix, None, None)).collect::<Option<_>>()?,
        };
        outputs.try_into().ok()
    }

    fn linear_three(x: &Tensor<2>, matrices: [&Tensor<2>; 3]) -> Option<[Tensor<2>; 3]> {
        let outputs = matrices.map(|matrix| matrix.dims()[0]);
        let skinny = Skinny::new(x, &matrices)?;
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
            a.into_buffer_arg(),
            b.into_buffer_arg(),
            c.into_buffer_arg(),
            out_a.into_buffer_arg(),
            out_b.into_buffer_arg(),
            out_c.into_buffer_arg(),
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
        // What is not asked for is not read.
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

    pub(super) fn linear_gate(x: &Tensor<2>, gate: &Tensor<2>, up: &Tensor<2>) -> Option<Tensor<2>> {
        let [outputs, _] = gate.dims();
        let skinny = Skinny::new(x, &[gate, up]).filter(|_| up.dims() == gate.dims())?;
        let (grid, out) = (skinny.grid(outputs)?, skinny.output(outputs));
        let [gate, up]: [CubeTensor; 2] = skinny.matrices.try_into().ok()?;
        gated::launch(
            &skinny.client,
            grid,
            skinny.sizes.rows.cube_dim(),
            skinny.by,
            skinny.x.clone().into_buffer_arg(),
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            outputs,
            skinny.sizes,
            dtype_to_storage_type(skinny.x.dtype),
        );
        Some(tensor(out))
    }
}
