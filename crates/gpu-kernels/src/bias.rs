//! What follows a product of many rows: the bias, and an activation, or a scale and the sum with other rows. GELU alone.

use burn::tensor::{Tensor, activation};

/// An activation behind a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BiasActivation {
    /// `x * (1 + erf(x / √2)) / 2`.
    Gelu,
    /// `x * (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
    GeluTanh,
}

/// `2 √(2/π)`.
const TWICE: f64 = 1.595_769_121_605_731;
const CUBIC: f64 = 0.044_715;

/// `x + bias`.
///
/// # Shapes
/// `x` `[N, D]`, `bias` `[D]` → `[N, D]`.
pub fn add_bias(x: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::biased(&x, &bias, None) {
        return y;
    }
    plain(x, bias)
}

/// `residual + scale · (x + bias)`.
///
/// # Shapes
/// `residual` and `x` `[N, D]`, `bias` and `scale` `[D]` → `[N, D]`.
pub fn add_biased(residual: Tensor<2>, x: Tensor<2>, bias: Tensor<1>, scale: Option<Tensor<1>>) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::added(&residual, &x, &bias, scale.as_ref()) {
        return y;
    }
    plain_add(residual, x, bias, scale)
}

/// `activation(x + bias)`.
///
/// # Shapes
/// `x` `[N, D]`, `bias` `[D]` → `[N, D]`.
pub fn activate_biased(x: Tensor<2>, bias: Tensor<1>, activation: BiasActivation) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::biased(&x, &bias, Some(activation)) {
        return y;
    }
    plain_activated(x, bias, activation)
}

/// `x * (1 + erf(x / √2)) / 2`; by the kernel in f32, whatever the number type.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(cube)]
    if let Some(y) = kernel::gelu_of(&x) {
        return y;
    }
    activation::gelu(x)
}

/// [`add_bias`] in plain operations.
pub fn plain(x: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    x + bias.unsqueeze()
}

/// [`add_biased`] in plain operations.
pub fn plain_add(residual: Tensor<2>, x: Tensor<2>, bias: Tensor<1>, scale: Option<Tensor<1>>) -> Tensor<2> {
    let x = plain(x, bias);
    residual
        + match scale {
            Some(scale) => x * scale.unsqueeze(),
            None => x,
        }
}

/// [`activate_biased`] in plain operations.
pub fn plain_activated(x: Tensor<2>, bias: Tensor<1>, activation: BiasActivation) -> Tensor<2> {
    let x = plain(x, bias);
    match activation {
        BiasActivation::Gelu => activation::gelu(x),
        BiasActivation::GeluTanh => gelu_tanh(x),
    }
}

/// [`BiasActivation::GeluTanh`] in plain operations.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    // burn's own GELU computes the power through a logarithm. (1 + tanh(y)) / 2 equals sigmoid(2 y).
    let inner = (x.clone().square() * (CUBIC * TWICE) + TWICE) * x.clone();
    activation::sigmoid(inner) * x
}

/// Whether [`add_bias`] and its like are kernels for this tensor, so that they are better joined with what follows.
pub fn adds_bias(x: &Tensor<2>, bias: &Tensor<1>) -> bool {
    kernel::takes(x, bias)
}

#[cfg(not(cube))]
mod kernel {
    use burn::tensor::Tensor;

    pub(super) fn takes(_: &Tensor<2>, _: &Tensor<1>) -> bool {
        false
    }
}

#[cfg(cube)]
mod kernel {
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::backend::{Cube, TensorMetadata};
    use burn::tensor::Tensor;
    use cubecl::prelude::*;

    use super::{BiasActivation, CUBIC, TWICE};
    use crate::gate::kernel::silu;
    use crate::launch::{dense, empty, floats, tensor, vector_size};

    /// What is done behind the bias, known to the compiler.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Then {
        scaled: bool,
        /// Whether other rows are added.
        added: bool,
        activation: Option<BiasActivation>,
    }

    #[cube]
    fn gelu<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
        let erf = Vector::<f32, N>::erf(x * Vector::<f32, N>::new(comptime!(std::f32::consts::FRAC_1_SQRT_2)));
        x * (erf + Vector::<f32, N>::new(1.0f32)) * Vector::<f32, N>::new(0.5f32)
    }

    /// As `x * sigmoid(y)`, with `y` twice the argument of the hyperbolic tangent: `silu(y)` is `y * sigmoid(y)`.
    #[cube]
    fn gelu_tanh<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
        let cubic = Vector::<f32, N>::new(comptime!((CUBIC * TWICE) as f32));
        let factor = x * x * cubic + Vector::<f32, N>::new(comptime!(TWICE as f32));
        silu::<N>(factor * x) / factor
    }

    #[cube(launch)]
    fn behind_bias<F: Float, N: Size>(
        residual: &[Vector<F, N>],
        x: &[Vector<F, N>],
        bias: &[Vector<F, N>],
        scale: &[Vector<F, N>],
        out: &mut [Vector<F, N>],
        count: usize,
        loads: usize,
        #[comptime] then: Then,
        #[define(F)] _dtype: ElemType,
    ) {
        if ABSOLUTE_POS < count {
            let mut y = x[ABSOLUTE_POS] + bias[ABSOLUTE_POS % loads];
            if comptime!(then.scaled) {
                y *= scale[ABSOLUTE_POS % loads];
            }
            if comptime!(then.added) {
                y += residual[ABSOLUTE_POS];
            }
            if comptime!(then.activation == Some(BiasActivation::Gelu)) {
                y = Vector::<F, N>::cast_from(gelu::<N>(Vector::<f32, N>::cast_from(y)));
            }
            if comptime!(then.activation == Some(BiasActivation::GeluTanh)) {
                y = Vector::<F, N>::cast_from(gelu_tanh::<N>(Vector::<f32, N>::cast_from(y)));
            }
            out[ABSOLUTE_POS] = y;
        }
    }

    #[cube(launch)]
    fn activated<F: Float, N: Size>(
        x: &[Vector<F, N>],
        out: &mut [Vector<F, N>],
        count: usize,
        #[define(F)] _dtype: ElemType,
    ) {
        if ABSOLUTE_POS < count {
            let y = gelu::<N>(Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]));
            out[ABSOLUTE_POS] = Vector::<F, N>::cast_from(y);
        }
    }

    pub(super) fn gelu_of<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
        let x = dense(x)?;
        let (client, dtype, total) = (x.client.clone(), x.dtype, x.shape().num_elements());
        let by = vector_size(&client, dtype, total);
        let mut out = empty(&x, x.shape(), dtype);
        out.meta = x.meta.clone();
        let dim = CubeDim::new_1d(256.min(client.properties().hardware.max_units_per_cube));
        activated::launch(
            &client,
            cubecl::calculate_cube_count_elemwise(&client, total / by, dim),
            dim,
            by,
            x.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            total / by,
            dtype_to_storage_type(dtype),
        );
        Some(tensor(out))
    }

    pub(super) fn takes(x: &Tensor<2>, bias: &Tensor<1>) -> bool {
        let [rows, width] = x.dims();
        let fits = rows * width > 0 && bias.dims() == [width] && bias.dtype() == x.dtype();
        fits && x.clone().try_into_primitive::<Cube>().is_ok() && bias.clone().try_into_primitive::<Cube>().is_ok()
    }

    pub(super) fn biased(x: &Tensor<2>, bias: &Tensor<1>, activation: Option<BiasActivation>) -> Option<Tensor<2>> {
        launch(x, bias, None, None, activation)
    }

    pub(super) fn added(
        residual: &Tensor<2>,
        x: &Tensor<2>,
        bias: &Tensor<1>,
        scale: Option<&Tensor<1>>,
    ) -> Option<Tensor<2>> {
        let fits = residual.dims() == x.dims() && residual.dtype() == x.dtype();
        let fits = fits && scale.is_none_or(|scale| scale.dims() == bias.dims() && scale.dtype() == x.dtype());
        fits.then(|| launch(x, bias, scale, Some(residual), None)).flatten()
    }

    fn launch(
        x: &Tensor<2>,
        bias: &Tensor<1>,
        scale: Option<&Tensor<1>>,
        residual: Option<&Tensor<2>>,
        activation: Option<BiasActivation>,
    ) -> Option<Tensor<2>> {
        if !takes(x, bias) {
            return None;
        }
        let width = x.dims()[1];
        let then = Then { scaled: scale.is_some(), added: residual.is_some(), activation };
        let (x, bias) = (floats(x)?, floats(bias)?);
        // What stands in for rows or a scale that are absent is not read.
        let residual = residual.map_or_else(|| Some(x.clone()), floats)?;
        let scale = scale.map_or_else(|| Some(bias.clone()), floats)?;
        let (client, dtype) = (x.client.clone(), x.dtype);
        let by = vector_size(&client, dtype, width);
        let (count, out) = (x.shape().num_elements() / by, empty(&x, x.shape(), dtype));
        let dim = CubeDim::new_1d(256.min(client.properties().hardware.max_units_per_cube));
        behind_bias::launch(
            &client,
            cubecl::calculate_cube_count_elemwise(&client, count, dim),
            dim,
            by,
            residual.into_buffer_arg(),
            x.into_buffer_arg(),
            bias.into_buffer_arg(),
            scale.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count,
            width / by,
            then,
            dtype_to_storage_type(dtype),
        );
        Some(tensor(out))
    }
}
