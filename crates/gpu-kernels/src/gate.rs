use burn::tensor::Tensor;
use burn::tensor::activation::silu;

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

#[cfg(cube)]
pub(crate) mod kernel {
    use burn::backend::TensorMetadata;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use cubecl::prelude::*;

    use crate::launch::{empty, floats, tensor, vector_size};

    /// `x * sigmoid(x)`.
    #[cube]
    pub(crate) fn silu<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
        // Above 88 the exponential is infinite, which some shader languages lack; the quotient is as good as zero long before.
        let negative = min(Vector::<f32, N>::zero() - x, Vector::<f32, N>::new(88.0f32));
        x / (Vector::<f32, N>::new(1.0f32) + Vector::<f32, N>::exp(negative))
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
}
