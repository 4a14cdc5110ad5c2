use burn::tensor::{DType, Tensor};

/// RMSNorm of the last axis: the mean square in f32, the quotient cast back *before* the multiplication, as in the reference.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    #[cfg(cube)]
    if let Some(y) = kernel::rms_norm(&x, &weight, eps) {
        return y;
    }
    plain(x, weight, eps)
}

/// [`rms_norm`] in plain operations.
pub fn plain<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let mean_square = x.clone().square().mean_dim(D - 1);
    let normed = (x / (mean_square + eps).sqrt()).cast(dtype);
    normed * weight.unsqueeze()
}

#[cfg(cube)]
mod kernel {
    use burn::backend::TensorMetadata;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use cubecl::prelude::*;

    use crate::launch::{empty, floats, grid, tensor, vector_size};
    use crate::rows::{Rows, row_of_unit, sum_of_row};

    #[cube(launch)]
    fn normed<F: Float, N: Size>(
        x: &[Vector<F, N>],
        weight: &[Vector<F, N>],
        out: &mut [Vector<F, N>],
        count: usize,
        eps: f32,
        #[comptime] loads: usize,
        #[comptime] width: usize,
        #[comptime] rows: Rows,
        #[define(F)] _dtype: ElemType,
    ) {
        let row = row_of_unit(rows);
        // Units past the last row compute the last one, because all must meet in the sum.
        let at = select(row < count, row, count - 1) * loads;
        let mut squares = Vector::<f32, N>::zero();
        #[unroll]
        for step in 0..comptime!(loads.div_ceil(rows.lanes)) {
            let i = step * rows.lanes + UNIT_POS_X as usize;
            if i < loads {
                let values = Vector::<f32, N>::cast_from(x[at + i]);
                squares += values * values;
            }
        }
        let mut shared = Shared::<[f32]>::new_slice(comptime!(rows.units()));
        let mean = sum_of_row(Vector::vector_sum(squares), &mut shared, rows) / comptime!(width as f32);
        let root = Vector::<f32, N>::new(f32::sqrt(mean + eps));
        if row < count {
            #[unroll]
            for step in 0..comptime!(loads.div_ceil(rows.lanes)) {
                let i = step * rows.lanes + UNIT_POS_X as usize;
                if i < loads {
                    let values = Vector::<f32, N>::cast_from(x[at + i]);
                    out[at + i] = Vector::<F, N>::cast_from(values / root) * weight[i];
                }
            }
        }
    }

    pub(super) fn rms_norm<const D: usize>(x: &Tensor<D>, weight: &Tensor<1>, eps: f64) -> Option<Tensor<D>> {
        let width = x.dims()[D - 1];
        let count = x.shape().num_elements() / width.max(1);
        if count == 0 || weight.dims() != [width] || weight.dtype() != x.dtype() {
            return None;
        }
        let (x, weight) = (floats(x)?, floats(weight)?);
        let (client, dtype) = (x.client.clone(), x.dtype);
        let by = vector_size(&client, dtype, width);
        let rows = Rows::new(&client, width / by);
        let out = empty(&x, x.shape(), dtype);
        normed::launch(
            &client,
            grid(&client, count.div_ceil(rows.per_cube)),
            rows.cube_dim(),
            by,
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count,
            eps as f32,
            width / by,
            width,
            rows,
            dtype_to_storage_type(dtype),
        );
        Some(tensor(out))
    }
}
