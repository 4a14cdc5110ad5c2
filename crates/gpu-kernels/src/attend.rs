use burn::tensor::{DType, Int, Tensor};

/// Causal attention of the last tokens over the keys of a cache: `softmax(q kᵀ / √Dh) v` in one launch. Query `t` of `T` sees the
/// first `S - T + t + 1` of `S` keys, and of these the last `window` if there is one.
///
/// # Shapes
/// `q` `[T, H, Dh]`, `keys` and `values` `[1, K, S, Dh]`, which may be views of a larger cache → `[T, H * Dh]`.
pub fn attend(q: Tensor<3>, [keys, values]: [Tensor<4>; 2], window: Option<usize>) -> Tensor<2> {
    #[cfg(cube)]
    if let Some(y) = kernel::attend(&q, [&keys, &values], window) {
        return y;
    }
    #[cfg(cube)]
    if let Some(y) = crate::flash::attend(&q, [&keys, &values], window) {
        return y;
    }
    plain(q, [keys, values], window)
}

/// Whether [`attend`] has a kernel for `tokens` queries over `keys` keys on the device of `x`: without one, masks that are kept for all
/// layers of a step are better.
pub fn attends(x: &Tensor<3>, keys: usize) -> bool {
    #[cfg(cube)]
    if crate::flash::takes(x, keys) {
        return true;
    }
    kernel::takes(x, keys)
}

/// [`attend`] in plain operations.
pub fn plain(q: Tensor<3>, [keys, values]: [Tensor<4>; 2], window: Option<usize>) -> Tensor<2> {
    let ([tokens, heads, width], [_, kv_heads, count, _]) = (q.dims(), keys.dims());
    let (device, dtype, group) = (q.device(), q.dtype(), heads / kv_heads);
    let q = q.swap_dims(0, 1).reshape([1, kv_heads, group * tokens, width]) * (width as f64).powf(-0.5);
    let scores = q.matmul(keys.swap_dims(2, 3)).cast(DType::F32).reshape([1, kv_heads, group, tokens, count]);
    // How far each key lies behind each query; one ahead has a negative distance.
    let query = Tensor::<1, Int>::arange((count - tokens) as i64..count as i64, &device).reshape([tokens, 1]);
    let distance = query - Tensor::<1, Int>::arange(0..count as i64, &device).reshape([1, count]);
    let beyond = distance.clone().greater_equal_elem(window.unwrap_or(count) as i64);
    let hidden = distance.lower_elem(0).bool_or(beyond).reshape([1, 1, 1, tokens, count]);
    let weights = burn::tensor::activation::softmax(
        scores.mask_fill(hidden.expand([1, kv_heads, group, tokens, count]), -1e30),
        4,
    );
    let weights = weights.cast(dtype).reshape([1, kv_heads, group * tokens, count]);
    weights.matmul(values).reshape([heads, tokens, width]).swap_dims(0, 1).reshape([tokens, heads * width])
}

#[cfg(cube)]
pub(crate) mod kernel {
    use burn::backend::Cube;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use burn_cubecl::tensor::CubeTensor;
    use cubecl::prelude::*;

    use crate::launch::{empty, floats, tensor, vector_size};
    use crate::rows::{LOWEST, Rows, max_of_row, sum_of_row};

    /// Most queries that go through the kernel: each reads all keys again. More go through [`crate::flash`].
    pub(crate) const MOST_QUERIES: usize = 8;
    /// Most keys: one cube walks through all keys of a head, which for more takes longer than separate launches.
    const MOST_KEYS: usize = 8192;

    /// Sizes that the compiler knows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Sizes {
        heads: usize,
        /// Query heads that share a key head.
        group: usize,
        width: usize,
        /// Loads of one head.
        loads: usize,
        /// As many units as keys are looked at together.
        rows: Rows,
    }

    /// One cube per query and head: for each run of keys, one score per unit, then one output number per unit.
    #[cube(launch)]
    fn attended<F: Float, N: Size>(
        q: &[Vector<F, N>],
        keys: &[Vector<F, N>],
        values: &[F],
        out: &mut [F],
        count: usize,
        window: usize,
        scale: f32,
        // Loads, and numbers, between the heads and between the keys of the cache.
        head_loads: usize,
        key_loads: usize,
        head_numbers: usize,
        key_numbers: usize,
        #[comptime] sizes: Sizes,
        #[define(F)] _dtype: ElemType,
    ) {
        let unit = UNIT_POS as usize;
        let (head, token) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
        let kv_head = head / sizes.group;
        let row = token * sizes.heads + head;
        // The first key after those that the query sees, and the first of those.
        let end = count - CUBE_COUNT_Y as usize + token + 1;
        let begin = select(end > window, end - window, 0);
        let units = comptime!(sizes.rows.lanes);
        let mut shared = Shared::<[f32]>::new_slice(units);
        let mut shares = Shared::<[f32]>::new_slice(units);
        let mut greatest = f32::new(LOWEST);
        let mut total = 0.0f32;
        let mut sum = 0.0f32;
        let runs = (end - begin).div_ceil(units);
        for run in 0..runs {
            let start = begin + run * units;
            let key = start + unit;
            let mut score = f32::new(LOWEST);
            if key < end {
                let at = kv_head * head_loads + key * key_loads;
                let mut product = Vector::<f32, N>::zero();
                #[unroll]
                for i in 0..sizes.loads {
                    product += Vector::<f32, N>::cast_from(q[row * sizes.loads + i])
                        * Vector::<f32, N>::cast_from(keys[at + i]);
                }
                score = Vector::vector_sum(product) * scale;
            }
            let higher = max(greatest, max_of_row(score, &mut shared, sizes.rows));
            let share = select(key < end, f32::exp(score - higher), 0.0f32);
            // What was added up before was relative to a lower score.
            let earlier = f32::exp(greatest - higher);
            greatest = higher;
            total = total * earlier + sum_of_row(share, &mut shared, sizes.rows);
            shares[unit] = share;
            sync_cube();
            if unit < sizes.width {
                sum *= earlier;
                let seen = select(end - start < units, end - start, units);
                let at = kv_head * head_numbers + start * key_numbers + unit;
                for i in 0..seen {
                    sum += shares[i] * f32::cast_from(values[at + i * key_numbers]);
                }
            }
            sync_cube();
        }
        if unit < sizes.width {
            out[row * sizes.width + unit] = F::cast_from(sum / total);
        }
    }

    /// Whether the tensor lies on a CubeCL device and tracks no gradient, and the sizes are those the kernel is made for.
    pub(super) fn takes(x: &Tensor<3>, keys: usize) -> bool {
        let [tokens, _, width] = x.dims();
        (1..=MOST_QUERIES).contains(&tokens)
            && (tokens..=MOST_KEYS).contains(&keys)
            && (1..=256).contains(&width)
            && x.clone().try_into_primitive::<Cube>().is_ok()
    }

    /// Keys or values as they lie in the cache, if the numbers of a head lie side by side.
    pub(crate) fn view(x: &Tensor<4>) -> Option<(CubeTensor, [usize; 2])> {
        let x = x.clone().try_into_primitive::<Cube>().ok()?;
        let strides = x.meta.strides();
        let [head, key, number] = [strides[1], strides[2], strides[3]];
        (number == 1).then_some((x, [head, key]))
    }

    pub(super) fn attend(q: &Tensor<3>, [keys, values]: [&Tensor<4>; 2], window: Option<usize>) -> Option<Tensor<2>> {
        let ([tokens, heads, width], [batch, kv_heads, count, _]) = (q.dims(), keys.dims());
        let fits = batch == 1 && keys.dims()[3] == width && values.dims() == keys.dims();
        let dtypes = keys.dtype() == q.dtype() && values.dtype() == q.dtype();
        if !takes(q, count) || !fits || !dtypes || !heads.is_multiple_of(kv_heads.max(1)) {
            return None;
        }
        let (q, (keys, key_strides), (values, value_strides)) = (floats(q)?, view(keys)?, view(values)?);
        if key_strides != value_strides {
            return None;
        }
        let (client, dtype) = (q.client.clone(), q.dtype);
        // Loads must begin at whole loads in every row of the cache.
        let by = [width, key_strides[0], key_strides[1]].map(|numbers| vector_size(&client, dtype, numbers));
        let by = by.into_iter().min()?;
        let rows = Rows { per_cube: 1, ..Rows::new(&client, width.max(32)) };
        let sizes = Sizes { heads, group: heads / kv_heads, width, loads: width / by, rows };
        let out = empty(&q, [tokens, heads * width], dtype);
        let [head, key] = key_strides;
        attended::launch(
            &client,
            CubeCount::Static(heads as u32, tokens as u32, 1),
            rows.cube_dim(),
            by,
            q.into_buffer_arg(),
            keys.into_buffer_arg(),
            values.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count,
            window.unwrap_or(count),
            (width as f32).powf(-0.5),
            head / by,
            key / by,
            head,
            key,
            sizes,
            dtype_to_storage_type(dtype),
        );
        Some(tensor(out))
    }
}

#[cfg(not(cube))]
mod kernel {
    use burn::tensor::Tensor;

    pub(super) fn takes(_: &Tensor<3>, _: usize) -> bool {
        false
    }
}
