use burn::tensor::{DType, Tensor};

/// A LayerNorm with its weights.
#[derive(Debug, Clone)]
pub struct LayerNormWeights {
    /// `[D]`.
    pub weight: Tensor<1>,
    /// `[D]`.
    pub bias: Tensor<1>,
    /// Added to the variance.
    pub eps: f64,
}

/// LayerNorm of each row with biased variance, in f32.
///
/// # Shapes
/// `[N, D]` → `[N, D]`.
pub fn layer_norm(x: Tensor<2>, norm: &LayerNormWeights) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::layer_norm(&x, norm) {
        return y;
    }
    plain(x, norm)
}

/// `sum = residual + (y + bias)` and [`layer_norm`] of the sum, in one launch: what stands between two parts of an encoder's layer.
///
/// # Shapes
/// `residual` and `y` `[N, D]`, `bias` `[D]` → the sum and the norm `[N, D]`.
pub fn add_layer_norm(
    residual: Tensor<2>,
    y: Tensor<2>,
    bias: Tensor<1>,
    norm: &LayerNormWeights,
) -> (Tensor<2>, Tensor<2>) {
    #[cfg(cube)]
    if let Some(both) = kernel::add_layer_norm(&residual, &y, &bias, norm) {
        return both;
    }
    plain_add(residual, y, bias, norm)
}

/// [`layer_norm`] in plain operations.
pub fn plain(x: Tensor<2>, norm: &LayerNormWeights) -> Tensor<2> {
    let LayerNormWeights { weight, bias, eps } = norm.clone();
    let dtype = x.dtype();
    if dtype == DType::F32 {
        return burn::tensor::module::layer_norm(x, weight, Some(bias), eps);
    }
    let x = x.cast(DType::F32);
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().square().mean_dim(1);
    (centred / (variance + eps).sqrt()).cast(dtype) * weight.unsqueeze() + bias.unsqueeze()
}

/// [`add_layer_norm`] in plain operations.
pub fn plain_add(
    residual: Tensor<2>,
    y: Tensor<2>,
    bias: Tensor<1>,
    norm: &LayerNormWeights,
) -> (Tensor<2>, Tensor<2>) {
    let sum = crate::bias::plain_add(residual, y, bias, None);
    (sum.clone(), plain(sum, norm))
}

#[cfg(cube)]
mod kernel {
    use burn::backend::TensorMetadata;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use burn_cubecl::tensor::CubeTensor;
    use cubecl::prelude::*;

    use super::LayerNormWeights;
    use crate::launch::{empty, floats, grid, tensor, vector_size};
    use crate::rows::{Rows, row_of_unit, sum_of_row};

    /// Sizes that the compiler knows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Sizes {
        loads: usize,
        width: usize,
        rows: Rows,
        /// Whether the rows are sums that are still to be added up.
        added: bool,
    }

    impl Sizes {
        /// Loads of a row for each of its units.
        fn steps(&self) -> usize {
            self.loads.div_ceil(self.rows.lanes)
        }
    }

    /// Each unit keeps its part of the row, which is read once.
    #[cube(launch)]
    fn normed<F: Float, N: Size>(
        x: &[Vector<F, N>],
        y: &[Vector<F, N>],
        y_bias: &[Vector<F, N>],
        weight: &[Vector<F, N>],
        bias: &[Vector<F, N>],
        sums: &mut [Vector<F, N>],
        out: &mut [Vector<F, N>],
        count: usize,
        eps: f32,
        #[comptime] sizes: Sizes,
        #[define(F)] _dtype: ElemType,
    ) {
        let row = row_of_unit(sizes.rows);
        // Units past the last row compute the last one, because all must meet in the sums.
        let at = select(row < count, row, count - 1) * sizes.loads;
        let lane = UNIT_POS_X as usize;
        let mut values = Array::<Vector<f32, N>>::new(comptime!(sizes.steps()));
        let mut sum = Vector::<f32, N>::zero();
        #[unroll]
        for step in 0..comptime!(sizes.steps()) {
            let i = step * sizes.rows.lanes + lane;
            values[step] = Vector::<f32, N>::zero();
            if i < sizes.loads {
                let mut value = x[at + i];
                if comptime!(sizes.added) {
                    value += y[at + i] + y_bias[i];
                    if row < count {
                        sums[at + i] = value;
                    }
                }
                values[step] = Vector::<f32, N>::cast_from(value);
                sum += values[step];
            }
        }
        let mut shared = Shared::<[f32]>::new_slice(comptime!(sizes.rows.units()));
        let width = comptime!(sizes.width as f32);
        let mean = Vector::<f32, N>::new(sum_of_row(Vector::vector_sum(sum), &mut shared, sizes.rows) / width);
        let mut squares = Vector::<f32, N>::zero();
        #[unroll]
        for step in 0..comptime!(sizes.steps()) {
            if step * sizes.rows.lanes + lane < sizes.loads {
                values[step] -= mean;
                squares += values[step] * values[step];
            }
        }
        let variance = sum_of_row(Vector::vector_sum(squares), &mut shared, sizes.rows) / width;
        let root = Vector::<f32, N>::new(f32::sqrt(variance + eps));
        if row < count {
            #[unroll]
            for step in 0..comptime!(sizes.steps()) {
                let i = step * sizes.rows.lanes + lane;
                if i < sizes.loads {
                    out[at + i] = Vector::<F, N>::cast_from(values[step] / root) * weight[i] + bias[i];
                }
            }
        }
    }

    pub(super) fn layer_norm(x: &Tensor<2>, norm: &LayerNormWeights) -> Option<Tensor<2>> {
        Some(launch(x, None, norm)?.1)
    }

    pub(super) fn add_layer_norm(
        residual: &Tensor<2>,
        y: &Tensor<2>,
        bias: &Tensor<1>,
        norm: &LayerNormWeights,
    ) -> Option<(Tensor<2>, Tensor<2>)> {
        let fits = y.dims() == residual.dims() && bias.dims() == [y.dims()[1]];
        if !fits || y.dtype() != residual.dtype() || bias.dtype() != residual.dtype() {
            return None;
        }
        launch(residual, Some((y, bias)), norm)
    }

    /// The sums, or the rows themselves, and their norm.
    fn launch(
        x: &Tensor<2>,
        added: Option<(&Tensor<2>, &Tensor<1>)>,
        LayerNormWeights { weight, bias, eps }: &LayerNormWeights,
    ) -> Option<(Tensor<2>, Tensor<2>)> {
        let [count, width] = x.dims();
        let fits = |vector: &Tensor<1>| vector.dims() == [width] && vector.dtype() == x.dtype();
        if count * width == 0 || !fits(weight) || !fits(bias) {
            return None;
        }
        let (x, weight, bias) = (floats(x)?, floats(weight)?, floats(bias)?);
        let (client, dtype) = (x.client.clone(), x.dtype);
        let by = vector_size(&client, dtype, width);
        let loads = width / by;
        let sizes = Sizes { loads, width, rows: Rows::new(&client, loads), added: added.is_some() };
        let (y, y_bias) = match added {
            Some((y, bias)) => (floats(y)?, floats(bias)?),
            // They are not read.
            None => (x.clone(), bias.clone()),
        };
        let output = || -> CubeTensor { empty(&x, x.shape(), dtype) };
        let out = output();
        let sums = if added.is_some() { output() } else { out.clone() };
        normed::launch(
            &client,
            grid(&client, count.div_ceil(sizes.rows.per_cube)),
            sizes.rows.cube_dim(),
            by,
            x.clone().into_buffer_arg(),
            y.into_buffer_arg(),
            y_bias.into_buffer_arg(),
            weight.into_buffer_arg(),
            bias.into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count,
            *eps as f32,
            sizes,
            dtype_to_storage_type(dtype),
        );
        Some((tensor(sums), tensor(out)))
    }
}
