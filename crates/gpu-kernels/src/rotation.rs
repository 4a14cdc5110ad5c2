use burn::tensor::Tensor;

/// `x cos + rotate_half(x) sin` of every head, in the number type of the tables. The second half of a table's row repeats the first.
///
/// # Shapes
/// `x` `[N, H, Dh]`, `cos` and `sin` `[N, 1, Dh]` → `[N, H, Dh]`.
pub fn rotate(x: Tensor<3>, cos: &Tensor<3>, sin: &Tensor<3>) -> Tensor<3> {
    #[cfg(cube)]
    if let Some(y) = kernel::rotate(&x, None, cos, sin) {
        return y;
    }
    plain(x, cos, sin)
}

/// [`rms_norm`](crate::rms_norm()) of every head, then [`rotate`].
///
/// # Shapes
/// `x` `[N, H, Dh]`, `weight` `[Dh]`, `cos` and `sin` `[N, 1, Dh]` → `[N, H, Dh]`.
pub fn rms_norm_rotate(x: Tensor<3>, weight: Tensor<1>, eps: f64, cos: &Tensor<3>, sin: &Tensor<3>) -> Tensor<3> {
    #[cfg(cube)]
    if let Some(y) = kernel::rotate(&x, Some((&weight, eps)), cos, sin) {
        return y;
    }
    plain_of_normed(x, weight, eps, cos, sin)
}

/// [`rotate`] in plain operations.
pub fn plain(x: Tensor<3>, cos: &Tensor<3>, sin: &Tensor<3>) -> Tensor<3> {
    let (dtype, half) = (x.dtype(), x.dims()[2] / 2);
    let x = x.cast(cos.dtype());
    let [first, second] = [x.clone().narrow(2, 0, half), x.clone().narrow(2, half, half)];
    let rotated = Tensor::cat(vec![second.neg(), first], 2);
    (x * cos.clone() + rotated * sin.clone()).cast(dtype)
}

/// [`rms_norm_rotate`] in plain operations.
pub fn plain_of_normed(x: Tensor<3>, weight: Tensor<1>, eps: f64, cos: &Tensor<3>, sin: &Tensor<3>) -> Tensor<3> {
    plain(crate::norm::plain(x, weight, eps), cos, sin)
}

#[cfg(cube)]
mod kernel {
    use burn::backend::TensorMetadata;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use cubecl::prelude::*;

    use crate::launch::{empty, floats, grid, tensor, vector_size};
    use crate::rows::{Rows, row_of_unit, sum_of_row};

    /// Sizes of a head, known to the compiler.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Head {
        heads: usize,
        /// Loads of half a head.
        half: usize,
        width: usize,
        normed: bool,
    }

    #[cube(launch)]
    fn rotated<F: Float, C: Float, N: Size>(
        x: &[Vector<F, N>],
        weight: &[Vector<F, N>],
        cos: &[Vector<C, N>],
        sin: &[Vector<C, N>],
        out: &mut [Vector<F, N>],
        count: usize,
        eps: f32,
        #[comptime] head: Head,
        #[comptime] rows: Rows,
        #[define(F, C)] _dtypes: [ElemType; 2],
    ) {
        let row = row_of_unit(rows);
        // Units past the last head compute the last one, because all must meet in the sum.
        let safe = select(row < count, row, count - 1);
        let i = UNIT_POS_X as usize;
        let at = safe * comptime!(2 * head.half);
        let mut first = Vector::<F, N>::zero();
        let mut second = Vector::<F, N>::zero();
        if i < head.half {
            first = x[at + i];
            second = x[at + head.half + i];
        }
        if comptime!(head.normed) {
            let (a, b) = (Vector::<f32, N>::cast_from(first), Vector::<f32, N>::cast_from(second));
            let mut shared = Shared::<[f32]>::new_slice(comptime!(rows.units()));
            let sum = sum_of_row(Vector::vector_sum(a * a + b * b), &mut shared, rows);
            let root = Vector::<f32, N>::new(f32::sqrt(sum / comptime!(head.width as f32) + eps));
            if i < head.half {
                first = Vector::<F, N>::cast_from(a / root) * weight[i];
                second = Vector::<F, N>::cast_from(b / root) * weight[head.half + i];
            }
        }
        if row < count && i < head.half {
            let table = safe / head.heads * comptime!(2 * head.half) + i;
            let (cos, sin) = (Vector::<f32, N>::cast_from(cos[table]), Vector::<f32, N>::cast_from(sin[table]));
            let (a, b) = (Vector::<f32, N>::cast_from(first), Vector::<f32, N>::cast_from(second));
            out[at + i] = Vector::<F, N>::cast_from(a * cos - b * sin);
            out[at + head.half + i] = Vector::<F, N>::cast_from(b * cos + a * sin);
        }
    }

    pub(super) fn rotate(
        x: &Tensor<3>,
        norm: Option<(&Tensor<1>, f64)>,
        cos: &Tensor<3>,
        sin: &Tensor<3>,
    ) -> Option<Tensor<3>> {
        let [rows, heads, width] = x.dims();
        let fits = norm.is_none_or(|(weight, _)| weight.dims() == [width] && weight.dtype() == x.dtype());
        let tables = [cos, sin].iter().all(|table| table.dims() == [rows, 1, width] && table.dtype() == cos.dtype());
        if rows * heads == 0 || !width.is_multiple_of(2) || !fits || !tables {
            return None;
        }
        let (x, cos, sin) = (floats(x)?, floats(cos)?, floats(sin)?);
        // Without a norm nothing reads the weight.
        let weight = norm.map_or(Some(x.clone()), |(weight, _)| floats(weight))?;
        let (client, dtypes) = (x.client.clone(), [x.dtype, cos.dtype]);
        let by = dtypes.map(|dtype| vector_size(&client, dtype, width / 2)).into_iter().min()?;
        let head = Head { heads, half: width / 2 / by, width, normed: norm.is_some() };
        let sharing = Rows::new(&client, head.half);
        if sharing.lanes < head.half {
            return None;
        }
        let (count, out) = (rows * heads, empty(&x, x.shape(), x.dtype));
        rotated::launch(
            &client,
            grid(&client, count.div_ceil(sharing.per_cube)),
            sharing.cube_dim(),
            by,
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count,
            norm.map_or(0.0, |(_, eps)| eps as f32),
            head,
            sharing,
            dtypes.map(dtype_to_storage_type),
        );
        Some(tensor(out))
    }
}
