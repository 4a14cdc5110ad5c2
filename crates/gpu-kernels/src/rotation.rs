use burn::tensor::Tensor;

/// `x cos + rotate_half(x) sin` of every head of queries and keys, in the number type of the tables. The second half of a table's row
/// repeats the first.
///
/// # Shapes
/// `x` `[N, H, Dh]` and `[N, K, Dh]`, `cos` and `sin` `[N, 1, Dh]` → `[N, H, Dh]` and `[N, K, Dh]`.
pub fn rotate(x: [Tensor<3>; 2], cos: &Tensor<3>, sin: &Tensor<3>) -> [Tensor<3>; 2] {
    #[cfg(cube)]
    if let Some(y) = kernel::rotate(&x, None, cos, sin) {
        return y;
    }
    x.map(|x| plain(x, cos, sin))
}

/// [`rms_norm`](crate::rms_norm()) of every head, then [`rotate`].
///
/// # Shapes
/// `x` `[N, H, Dh]` and `[N, K, Dh]`, `weights` `[Dh]`, `cos` and `sin` `[N, 1, Dh]` → `[N, H, Dh]` and `[N, K, Dh]`.
pub fn rms_norm_rotate(
    x: [Tensor<3>; 2],
    weights: [Tensor<1>; 2],
    eps: [f64; 2],
    cos: &Tensor<3>,
    sin: &Tensor<3>,
) -> [Tensor<3>; 2] {
    #[cfg(cube)]
    if let Some(y) = kernel::rotate(&x, Some((&weights, eps)), cos, sin) {
        return y;
    }
    let ([q, k], [q_weight, k_weight], [q_eps, k_eps]) = (x, weights, eps);
    [(q, q_weight, q_eps), (k, k_weight, k_eps)].map(|(x, weight, eps)| plain_of_normed(x, weight, eps, cos, sin))
}

/// [`rotate`] of one of them, in plain operations.
pub fn plain(x: Tensor<3>, cos: &Tensor<3>, sin: &Tensor<3>) -> Tensor<3> {
    let (dtype, half) = (x.dtype(), x.dims()[2] / 2);
    let x = x.cast(cos.dtype());
    let [first, second] = [x.clone().narrow(2, 0, half), x.clone().narrow(2, half, half)];
    let rotated = Tensor::cat(vec![second.neg(), first], 2);
    (x * cos.clone() + rotated * sin.clone()).cast(dtype)
}

/// [`rms_norm_rotate`] of one of them, in plain operations.
pub fn plain_of_normed(x: Tensor<3>, weight: Tensor<1>, eps: f64, cos: &Tensor<3>, sin: &Tensor<3>) -> Tensor<3> {
    plain(crate::norm::plain(x, weight, eps), cos, sin)
}

#[cfg(cube)]
pub(crate) mod kernel {
    use burn::backend::TensorMetadata;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use cubecl::prelude::*;

    use crate::launch::{empty, floats, grid, tensor, vector_size};
    use crate::norm::kernel::scaled;
    use crate::rows::{Rows, row_of_unit, sum_of_row};

    /// Sizes of a head, known to the compiler.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Head {
        /// Query heads and key heads.
        heads: [usize; 2],
        /// Loads of half a head.
        half: usize,
        width: usize,
        normed: bool,
    }

    impl Head {
        fn of_token(&self) -> usize {
            self.heads[0] + self.heads[1]
        }
    }

    /// One unit's part of the sum of squares of a head: numbers of its first and of its second half.
    #[cube]
    pub(crate) fn squares<F: Float, N: Size>(first: Vector<F, N>, second: Vector<F, N>) -> f32 {
        let (a, b) = (Vector::<f32, N>::cast_from(first), Vector::<f32, N>::cast_from(second));
        Vector::vector_sum(a * a + b * b)
    }

    /// Numbers of the first half of a head and those of the second half, rotated.
    #[cube]
    pub(crate) fn turned<F: Float, C: Float, N: Size>(
        first: Vector<F, N>,
        second: Vector<F, N>,
        cos: Vector<C, N>,
        sin: Vector<C, N>,
    ) -> (Vector<F, N>, Vector<F, N>) {
        let (cos, sin) = (Vector::<f32, N>::cast_from(cos), Vector::<f32, N>::cast_from(sin));
        let (a, b) = (Vector::<f32, N>::cast_from(first), Vector::<f32, N>::cast_from(second));
        (Vector::<F, N>::cast_from(a * cos - b * sin), Vector::<F, N>::cast_from(b * cos + a * sin))
    }

    /// The heads of a token are shared by the units one after the other, those of the queries first.
    #[cube(launch)]
    fn rotated<F: Float, C: Float, N: Size>(
        q: &[Vector<F, N>],
        k: &[Vector<F, N>],
        q_weight: &[Vector<F, N>],
        k_weight: &[Vector<F, N>],
        cos: &[Vector<C, N>],
        sin: &[Vector<C, N>],
        q_out: &mut [Vector<F, N>],
        k_out: &mut [Vector<F, N>],
        count: usize,
        q_eps: f32,
        k_eps: f32,
        #[comptime] head: Head,
        #[comptime] rows: Rows,
        #[define(F, C)] _dtypes: [ElemType; 2],
    ) {
        let row = row_of_unit(rows);
        // Units past the last head compute the last one, because all must meet in the sum.
        let safe = select(row < count, row, count - 1);
        let (token, of_token) = (safe / head.of_token(), safe % head.of_token());
        let query = of_token < comptime!(head.heads[0]);
        let of_keys = select(query, 0, of_token - comptime!(head.heads[0]));
        let q_at = (token * comptime!(head.heads[0]) + of_token) * comptime!(2 * head.half);
        let k_at = (token * comptime!(head.heads[1]) + of_keys) * comptime!(2 * head.half);
        let i = UNIT_POS_X as usize;
        let mut first = Vector::<F, N>::zero();
        let mut second = Vector::<F, N>::zero();
        if i < head.half {
            if query {
                first = q[q_at + i];
                second = q[q_at + head.half + i];
            } else {
                first = k[k_at + i];
                second = k[k_at + head.half + i];
            }
        }
        if comptime!(head.normed) {
            let mut shared = Shared::<[f32]>::new_slice(comptime!(rows.units()));
            let sum = sum_of_row(squares::<F, N>(first, second), &mut shared, rows);
            let eps = select(query, q_eps, k_eps);
            let root = f32::sqrt(sum / comptime!(head.width as f32) + eps);
            if i < head.half {
                let mut weight = k_weight[i];
                let mut weight_of_second = k_weight[head.half + i];
                if query {
                    weight = q_weight[i];
                    weight_of_second = q_weight[head.half + i];
                }
                first = scaled::<F, N>(first, root, weight);
                second = scaled::<F, N>(second, root, weight_of_second);
            }
        }
        if row < count && i < head.half {
            let table = token * comptime!(2 * head.half) + i;
            let (first, second) = turned::<F, C, N>(first, second, cos[table], sin[table]);
            if query {
                q_out[q_at + i] = first;
                q_out[q_at + head.half + i] = second;
            } else {
                k_out[k_at + i] = first;
                k_out[k_at + head.half + i] = second;
            }
        }
    }

    pub(super) fn rotate(
        [q, k]: &[Tensor<3>; 2],
        norms: Option<(&[Tensor<1>; 2], [f64; 2])>,
        cos: &Tensor<3>,
        sin: &Tensor<3>,
    ) -> Option<[Tensor<3>; 2]> {
        let ([rows, heads, width], [_, kv_heads, _], dtype) = (q.dims(), k.dims(), q.dtype());
        let keys = k.dims() == [rows, kv_heads, width] && k.dtype() == dtype;
        let fits = |weight: &Tensor<1>| weight.dims() == [width] && weight.dtype() == dtype;
        let tables = [cos, sin].iter().all(|table| table.dims() == [rows, 1, width] && table.dtype() == cos.dtype());
        let normed = norms.is_none_or(|(weights, _)| weights.iter().all(fits));
        if rows * heads * kv_heads == 0 || !width.is_multiple_of(2) || !keys || !normed || !tables {
            return None;
        }
        let (q, k, cos, sin) = (floats(q)?, floats(k)?, floats(cos)?, floats(sin)?);
        // Without norms nothing reads the weights.
        let [q_weight, k_weight] = match norms {
            Some((weights, _)) => weights.each_ref().map(floats),
            None => [&q, &k].map(|x| Some(x.clone())),
        };
        let (q_weight, k_weight) = (q_weight?, k_weight?);
        let [q_eps, k_eps] = norms.map_or([0.0; 2], |(_, eps)| eps.map(|eps| eps as f32));
        let (client, dtypes) = (q.client.clone(), [dtype, cos.dtype]);
        let by = dtypes.map(|dtype| vector_size(&client, dtype, width / 2)).into_iter().min()?;
        let head = Head { heads: [heads, kv_heads], half: width / 2 / by, width, normed: norms.is_some() };
        let sharing = Rows::new(&client, head.half);
        if sharing.lanes < head.half {
            return None;
        }
        let count = rows * head.of_token();
        let out = [&q, &k].map(|x| empty(x, x.shape(), dtype));
        let [q_out, k_out] = out.clone();
        rotated::launch(
            &client,
            grid(&client, count.div_ceil(sharing.per_cube)),
            sharing.cube_dim(),
            by,
            q.into_buffer_arg(),
            k.into_buffer_arg(),
            q_weight.into_buffer_arg(),
            k_weight.into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            q_out.into_buffer_arg(),
            k_out.into_buffer_arg(),
            count,
            q_eps,
            k_eps,
            head,
            sharing,
            dtypes.map(dtype_to_storage_type),
        );
        Some(out.map(tensor))
    }
}
