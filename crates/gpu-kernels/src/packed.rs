use burn::tensor::{Int, Tensor};

use crate::packed_matrix::Packed;
#[cfg(cube)]
use crate::packed_tiles;

/// `x Wᵀ` of a packed matrix, in one launch that reads it as it is packed; only for very many rows it is unpacked first.
///
/// # Shapes
/// `[N, D]` → `[N, out]`.
pub fn linear_packed(x: Tensor<2>, matrix: &Packed) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::linear(&x, None, matrix).or_else(|| packed_tiles::linear(&x, None, matrix)) {
        return y;
    }
    x.matmul(matrix.numbers().transpose())
}

/// `residual + x Wᵀ`, as [`linear_packed`].
///
/// # Shapes
/// `residual` `[N, out]`, `x` `[N, D]` → `[N, out]`.
pub fn add_linear_packed(residual: Tensor<2>, x: Tensor<2>, matrix: &Packed) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) =
        kernel::linear(&x, Some(&residual), matrix).or_else(|| packed_tiles::linear(&x, Some(&residual), matrix))
    {
        return y;
    }
    residual + x.matmul(matrix.numbers().transpose())
}

/// The stacked packed matrices of all experts of a layer.
#[derive(Debug, Clone, Copy)]
pub struct PackedMatrices<'a> {
    /// `[E * 2 * I, D]`, gate above up for each expert.
    pub gate_up: Packed<'a>,
    /// `[E * D, I]`.
    pub down: Packed<'a>,
}

/// [`experts`](crate::experts()) of packed matrices, in two launches; `None` where no kernel takes them.
///
/// # Shapes
/// `residual` and `x` `[N, D]`, `index` and `weights` `[N, k]` → `[N, D]`.
pub fn experts_packed(
    residual: &Tensor<2>,
    x: &Tensor<2>,
    index: &Tensor<2, Int>,
    weights: &Tensor<2>,
    matrices: &PackedMatrices,
) -> Option<Tensor<2>> {
    kernel::experts(residual, x, (index, weights), matrices)
}

#[cfg(cube)]
pub(crate) mod kernel {
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::{DType, Int, Tensor};
    use cubecl::client::Client;
    use cubecl::prelude::*;

    use super::PackedMatrices;
    use crate::experts::kernel::expert_of;
    use crate::gate::kernel::silu;
    use crate::launch::{MOST_CUBES, empty, floats, integers, tensor};
    use crate::linear::SKINNY_MAX_ROWS;
    use crate::packed_matrix::{Packed, buffers};
    use crate::rows::{Rows, sum_of_row};

    /// What the compiler knows of a packed matrix.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Format {
        bits: usize,
        /// Words of a row.
        words: usize,
        /// Words of a group.
        group: usize,
        zeros: bool,
        rows: Rows,
    }

    impl Format {
        fn new(client: &Client, matrix: &Packed, outputs: usize) -> Option<Self> {
            let ([_, words], [_, groups]) = (matrix.words.dims(), matrix.scales.dims());
            if !matrix.is_whole() || outputs == 0 {
                return None;
            }
            let sharing = Rows::of_planes(client, words);
            let per_cube = (1..=sharing.per_cube).rev().find(|count| outputs.is_multiple_of(*count))?;
            let rows = Rows { per_cube, ..sharing };
            Some(Self { bits: matrix.bits, words, group: words / groups, zeros: matrix.zeros.is_some(), rows })
        }

        fn steps(&self) -> usize {
            self.words.div_ceil(self.rows.lanes)
        }

        fn groups(&self) -> usize {
            self.words / self.group
        }

        fn per_word(&self) -> usize {
            32 / self.bits
        }

        fn mask(&self) -> u32 {
            (1 << self.bits) - 1
        }

        fn middle(&self) -> f32 {
            (1u32 << (self.bits - 1)) as f32
        }
    }

    /// This unit's part of the product of a row of the matrix with the numbers from `x_at` on.
    #[cube]
    fn product<X: Float, F: Float>(
        x: &[X],
        words: &[u32],
        scales: &[F],
        zeros: &[F],
        x_at: usize,
        row: usize,
        #[comptime] format: Format,
    ) -> f32 {
        let mut sum = 0.0f32;
        for step in 0..format.steps() {
            let i = step * format.rows.lanes + UNIT_POS_X as usize;
            if i < format.words {
                let word = words[row * format.words + i];
                let group = row * format.groups() + i / format.group;
                let zero =
                    if comptime!(format.zeros) { f32::cast_from(zeros[group]) } else { f32::new(format.middle()) };
                let mut part = 0.0f32;
                #[unroll]
                for place in 0..format.per_word() {
                    let integer = (word >> comptime!((place * format.bits) as u32)) & comptime!(format.mask());
                    let value = f32::cast_from(x[x_at + i * format.per_word() + place]);
                    part += (f32::cast_from(integer) - zero) * value;
                }
                sum += part * f32::cast_from(scales[group]);
            }
        }
        sum
    }

    #[cube(launch)]
    fn one<F: Float>(
        x: &[F],
        words: &[u32],
        scales: &[F],
        zeros: &[F],
        residual: &[F],
        out: &mut [F],
        outputs: usize,
        #[comptime] format: Format,
        #[comptime] added: bool,
        #[define(F)] _dtype: ElemType,
    ) {
        let row = CUBE_POS_X as usize * format.rows.per_cube + UNIT_POS_Y as usize;
        let x_at = CUBE_POS_Y as usize * comptime!(format.words * format.per_word());
        let mut shared = Shared::<[f32]>::new_slice(comptime!(format.rows.units()));
        let part = product::<F, F>(x, words, scales, zeros, x_at, row, format);
        let sum = sum_of_row(part, &mut shared, format.rows);
        if UNIT_POS_X == 0 {
            let at = CUBE_POS_Y as usize * outputs + row;
            let sum = if comptime!(added) { f32::cast_from(residual[at]) + sum } else { sum };
            out[at] = F::cast_from(sum);
        }
    }

    #[cube(launch)]
    fn gate_up<F: Float>(
        x: &[F],
        index: &[i32],
        words: &[u32],
        scales: &[F],
        zeros: &[F],
        out: &mut [f32],
        #[comptime] sizes: Sizes,
        #[comptime] format: Format,
        #[define(F)] _dtype: ElemType,
    ) {
        let (row, pair) = (CUBE_POS_X as usize * format.rows.per_cube + UNIT_POS_Y as usize, CUBE_POS_Y as usize);
        let x_at = pair / sizes.top_k * sizes.width;
        let gate_at = expert_of(index, pair, sizes.experts) * comptime!(2 * sizes.inner) + row;
        let mut shared = Shared::<[f32]>::new_slice(comptime!(format.rows.units()));
        let gate = product::<F, F>(x, words, scales, zeros, x_at, gate_at, format);
        let up = product::<F, F>(x, words, scales, zeros, x_at, gate_at + sizes.inner, format);
        let gate = sum_of_row(gate, &mut shared, format.rows);
        let up = sum_of_row(up, &mut shared, format.rows);
        if UNIT_POS_X == 0 {
            let gate = Vector::vector_sum(silu::<Const<1>>(Vector::<f32, Const<1>>::new(gate)));
            out[pair * sizes.inner + row] = gate * up;
        }
    }

    #[cube(launch)]
    fn down<F: Float>(
        hidden: &[f32],
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
        let (row, token) = (CUBE_POS_X as usize * format.rows.per_cube + UNIT_POS_Y as usize, CUBE_POS_Y as usize);
        let mut total = 0.0f32;
        for choice in 0..sizes.top_k {
            let pair = token * sizes.top_k + choice;
            let matrix_row = expert_of(index, pair, sizes.experts) * sizes.width + row;
            let part = product::<f32, F>(hidden, words, scales, zeros, pair * sizes.inner, matrix_row, format);
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

    pub(super) fn linear(x: &Tensor<2>, residual: Option<&Tensor<2>>, matrix: &Packed) -> Option<Tensor<2>> {
        let ([rows, width], [outputs, input]) = (x.dims(), matrix.shape());
        let fits = residual.is_none_or(|y| y.dims() == [rows, outputs] && y.dtype() == x.dtype());
        let few = (1..=SKINNY_MAX_ROWS).contains(&rows) && width == input && matrix.scales.dtype() == x.dtype();
        let x = floats(x).filter(|_| fits && few)?;
        let format = Format::new(&x.client, matrix, outputs)?;
        let cubes = outputs / format.rows.per_cube;
        let added = residual.map_or(Some(x.clone()), floats).filter(|_| cubes <= MOST_CUBES)?;
        let [words, scales, zeros] = buffers(matrix)?;
        let (client, elem, out) =
            (x.client.clone(), dtype_to_storage_type(x.dtype), empty(&x, [rows, outputs], x.dtype));
        one::launch(
            &client,
            CubeCount::Static(cubes as u32, rows as u32, 1),
            format.rows.cube_dim(),
            x.into_buffer_arg(),
            words.into_buffer_arg(),
            scales.into_buffer_arg(),
            zeros.into_buffer_arg(),
            added.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            outputs,
            format,
            residual.is_some(),
            elem,
        );
        Some(tensor(out))
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
        let (into, back) = (Format::new(&client, gate_up, inner)?, Format::new(&client, down, width)?);
        let ([words, scales, zeros], [words_back, scales_back, zeros_back]) = (buffers(gate_up)?, buffers(down)?);
        let hidden = empty(&x, [count * top_k, inner], DType::F32);
        self::gate_up::launch(
            &client,
            CubeCount::Static((inner / into.rows.per_cube) as u32, (count * top_k) as u32, 1),
            into.rows.cube_dim(),
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
}

#[cfg(not(cube))]
mod kernel {
    use burn::tensor::{Int, Tensor};

    use super::PackedMatrices;

    pub(super) fn experts(
        _: &Tensor<2>,
        _: &Tensor<2>,
        _: (&Tensor<2, Int>, &Tensor<2>),
        _: &PackedMatrices,
    ) -> Option<Tensor<2>> {
        None
    }
}
