use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, silu};

/// `silu(gate) * up`.
pub fn silu_gate<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    #[cfg(cube)]
    if let Some(y) = kernel::silu_gate(&gate, &up) {
        return y;
    }
    plain(gate, up)
}

/// [`silu_gate`] in plain operations.
pub fn plain<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate) * up
}

/// `residual + sigmoid(gate) * y`, with a gate per row.
///
/// # Shapes
/// `residual` and `y` `[N, D]`, `gate` `[N, 1]` → `[N, D]`.
pub fn add_gated(residual: Tensor<2>, y: Tensor<2>, gate: Tensor<2>) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(sum) = kernel::add_gated(&residual, &y, &gate) {
        return sum;
    }
    plain_add_gated(residual, y, gate)
}

/// [`add_gated`] in plain operations.
pub fn plain_add_gated(residual: Tensor<2>, y: Tensor<2>, gate: Tensor<2>) -> Tensor<2> {
    residual + sigmoid(gate) * y
}

#[cfg(cube)]
pub(crate) mod kernel {
    use burn::backend::TensorMetadata;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use cubecl::prelude::*;

    use crate::launch::{empty, floats, tensor, vector_size};

    /// What a number is divided by to be multiplied by `sigmoid(x)`.
    #[cube]
    fn sigmoid_divisor<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
        // Above 88 the exponential is infinite, which some shader languages lack; the quotient is as good as zero long before.
        let negative = min(Vector::<f32, N>::zero() - x, Vector::<f32, N>::new(88.0f32));
        Vector::<f32, N>::new(1.0f32) + Vector::<f32, N>::exp(negative)
    }

    /// `x * sigmoid(x)`.
    #[cube]
    pub(crate) fn silu<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
        x / sigmoid_divisor::<N>(x)
    }

    #[cube(launch)]
    fn gated<F: Float, N: Size>(
        gate: &[Vector<F, N>],
        up: &[Vector<F, N>],
        out: &mut [Vector<F, N>],
        count: usize,
        #[define(F)] _dtype: ElemType,
    ) {
        if ABSOLUTE_POS < count {
            let gate = silu::<N>(Vector::<f32, N>::cast_from(gate[ABSOLUTE_POS]));
            out[ABSOLUTE_POS] = Vector::<F, N>::cast_from(gate * Vector::<f32, N>::cast_from(up[ABSOLUTE_POS]));
        }
    }

    pub(super) fn silu_gate<const D: usize>(gate: &Tensor<D>, up: &Tensor<D>) -> Option<Tensor<D>> {
        if gate.dims() != up.dims() || gate.dtype() != up.dtype() || gate.shape().num_elements() == 0 {
            return None;
        }
        let (gate, up) = (floats(gate)?, floats(up)?);
        let (client, dtype) = (gate.client.clone(), gate.dtype);
        let by = vector_size(&client, dtype, gate.shape().num_elements());
        let count = gate.shape().num_elements() / by;
        let out = empty(&gate, gate.shape(), dtype);
        let dim = CubeDim::new_1d(256.min(client.properties().hardware.max_units_per_cube));
        gated::launch(
            &client,
            cubecl::calculate_cube_count_elemwise(&client, count, dim),
            dim,
            by,
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count,
            dtype_to_storage_type(dtype),
        );
        Some(tensor(out))
    }

    #[cube(launch)]
    fn added<F: Float, N: Size>(
        residual: &[Vector<F, N>],
        y: &[Vector<F, N>],
        gate: &[F],
        out: &mut [Vector<F, N>],
        count: usize,
        loads: usize,
        #[define(F)] _dtype: ElemType,
    ) {
        if ABSOLUTE_POS < count {
            let gate = Vector::<f32, N>::new(f32::cast_from(gate[ABSOLUTE_POS / loads]));
            let gated = Vector::<f32, N>::cast_from(y[ABSOLUTE_POS]) / sigmoid_divisor::<N>(gate);
            out[ABSOLUTE_POS] = Vector::<F, N>::cast_from(Vector::<f32, N>::cast_from(residual[ABSOLUTE_POS]) + gated);
        }
    }

    pub(super) fn add_gated(residual: &Tensor<2>, y: &Tensor<2>, gate: &Tensor<2>) -> Option<Tensor<2>> {
        let [rows, width] = residual.dims();
        let shapes = y.dims() == [rows, width] && gate.dims() == [rows, 1];
        let dtypes = y.dtype() == residual.dtype() && gate.dtype() == residual.dtype();
        if !shapes || !dtypes || rows * width == 0 {
            return None;
        }
        let (residual, y, gate) = (floats(residual)?, floats(y)?, floats(gate)?);
        let (client, dtype) = (residual.client.clone(), residual.dtype);
        let by = vector_size(&client, dtype, width);
        let (count, out) = (rows * width / by, empty(&residual, residual.shape(), dtype));
        let dim = CubeDim::new_1d(256.min(client.properties().hardware.max_units_per_cube));
        added::launch(
            &client,
            cubecl::calculate_cube_count_elemwise(&client, count, dim),
            dim,
            by,
            residual.into_buffer_arg(),
            y.into_buffer_arg(),
            gate.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count,
            width / by,
            dtype_to_storage_type(dtype),
        );
        Some(tensor(out))
    }
}
