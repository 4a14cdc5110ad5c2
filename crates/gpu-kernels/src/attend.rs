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
    if q.dims()[0] > kernel::MOST_QUERIES
        && let Some(y) = crate::flash::attend(&q, [&keys, &values], window)
    {
        return y;
    }
    plain(q, [keys, values], window)
}

/// Whether [`attend`] has a kernel for `tokens` queries over `keys` keys on the device of `x`: without one, masks that are kept for all
/// layers of a step are better.
pub fn attends(x: &Tensor<3>, keys: usize) -> bool {
    #[cfg(cube)]
    if x.dims()[0] > kernel::MOST_QUERIES && crate::flash::takes(x, keys) {
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
    use cubecl::client::Client;
    use cubecl::prelude::*;

    use crate::launch::{empty, floats, strided_cache, tensor, vector_size};
    use crate::rows::{LOWEST, Rows, max_of_row, sum_of_row};

    /// Most queries that go through the kernel: each reads all keys again. More go through [`crate::flash`].
    pub(crate) const MOST_QUERIES: usize = 8;
    /// Most keys: one cube walks through all keys of a head, which for more takes longer than separate launches.
    pub(crate) const MOST_KEYS: usize = 8192;
    /// Widest head.
    pub(crate) const MOST_WIDTH: usize = 256;

    /// Sizes that the compiler knows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) struct Sizes {
        pub heads: usize,
        /// Query heads that share a key head.
        pub group: usize,
        pub width: usize,
        /// Loads of one head.
        pub loads: usize,
        /// As many units as keys are looked at together.
        pub rows: Rows,
        /// Whether the last keys are new ones, which no cache holds yet.
        pub appends: bool,
    }

    impl Sizes {
        /// Shares heads of `width` numbers, loaded `by` numbers at a time.
        pub(crate) fn new(client: &Client, [heads, kv_heads]: [usize; 2], width: usize, by: usize) -> Self {
            let rows = Rows { per_cube: 1, ..Rows::new(client, width.max(32)) };
            Self { heads, group: heads / kv_heads, width, loads: width / by, rows, appends: false }
        }
    }

    /// The keys that a query sees.
    #[derive(CubeType, Clone, Copy)]
    pub(crate) struct Span {
        pub begin: usize,
        pub end: usize,
        /// Keys that the cache holds; those from here on are new.
        pub held: usize,
    }

    /// Keys or values: where those of a head begin, and what lies between them.
    #[derive(CubeType, Clone, Copy)]
    pub(crate) struct Place {
        pub head: usize,
        pub stride: usize,
    }

    #[cube]
    fn dot<F: Float, N: Size>(
        q: &[Vector<F, N>],
        q_at: usize,
        key: &[Vector<F, N>],
        at: usize,
        #[comptime] sizes: Sizes,
    ) -> f32 {
        let mut product = Vector::<f32, N>::zero();
        #[unroll]
        for i in 0..sizes.loads {
            product += Vector::<f32, N>::cast_from(q[q_at + i]) * Vector::<f32, N>::cast_from(key[at + i]);
        }
        Vector::vector_sum(product)
    }

    /// The attention of the query that begins at `q_at`: for each run of keys, one score per unit, then one output number per unit.
    /// Where keys are new, they lie one after another in shared memory, and the new values where `new_values` says.
    #[cube]
    pub(crate) fn attention<F: Float, N: Size>(
        q: &[Vector<F, N>],
        q_at: usize,
        keys: &[Vector<F, N>],
        of_keys: Place,
        values: &[F],
        of_values: Place,
        new_keys: &[Vector<F, N>],
        new_values: &[F],
        of_new_values: Place,
        span: Span,
        scale: f32,
        #[comptime] sizes: Sizes,
    ) -> f32 {
        let unit = UNIT_POS as usize;
        let units = comptime!(sizes.rows.lanes);
        let mut shared = Shared::<[f32]>::new_slice(units);
        let mut shares = Shared::<[f32]>::new_slice(units);
        let mut greatest = f32::new(LOWEST);
        let mut total = 0.0f32;
        let mut sum = 0.0f32;
        let runs = (span.end - span.begin).div_ceil(units);
        for run in 0..runs {
            let start = span.begin + run * units;
            let key = start + unit;
            let mut score = f32::new(LOWEST);
            if key < span.end {
                let mut product = 0.0f32;
                if comptime!(sizes.appends) {
                    if key < span.held {
                        product += dot::<F, N>(q, q_at, keys, of_keys.head + key * of_keys.stride, sizes);
                    } else {
                        product += dot::<F, N>(q, q_at, new_keys, (key - span.held) * sizes.loads, sizes);
                    }
                } else {
                    product += dot::<F, N>(q, q_at, keys, of_keys.head + key * of_keys.stride, sizes);
                }
                score = product * scale;
            }
            let higher = max(greatest, max_of_row(score, &mut shared, sizes.rows));
            let share = select(key < span.end, f32::exp(score - higher), 0.0f32);
            // What was added up before was relative to a lower score.
            let earlier = f32::exp(greatest - higher);
            greatest = higher;
            total = total * earlier + sum_of_row(share, &mut shared, sizes.rows);
            shares[unit] = share;
            sync_cube();
            if unit < sizes.width {
                sum *= earlier;
                let seen = select(span.end - start < units, span.end - start, units);
                let at = of_values.head + start * of_values.stride + unit;
                if comptime!(sizes.appends) {
                    let held = select(span.held > start, span.held - start, 0);
                    let held = select(held < seen, held, seen);
                    for i in 0..held {
                        sum += shares[i] * f32::cast_from(values[at + i * of_values.stride]);
                    }
                    for i in held..seen {
                        let row = start + i - span.held;
                        let at = of_new_values.head + row * of_new_values.stride + unit;
                        sum += shares[i] * f32::cast_from(new_values[at]);
                    }
                } else {
                    for i in 0..seen {
                        sum += shares[i] * f32::cast_from(values[at + i * of_values.stride]);
                    }
                }
            }
            sync_cube();
        }
        sum / total
    }

    /// One cube per query and head.
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
        let span = Span { begin, end, held: count };
        let of_keys = Place { head: kv_head * head_loads, stride: key_loads };
        let of_values = Place { head: kv_head * head_numbers, stride: key_numbers };
        // No key is new, so nothing reads new ones.
        let none = Place { head: kv_head, stride: key_numbers };
        let y = attention::<F, N>(
            q,
            row * sizes.loads,
            keys,
            of_keys,
            values,
            of_values,
            q,
            values,
            none,
            span,
            scale,
            sizes,
        );
        if unit < sizes.width {
            out[row * sizes.width + unit] = F::cast_from(y);
        }
    }

    /// Whether the tensor lies on a CubeCL device and tracks no gradient, and the sizes are those the kernel is made for.
    pub(super) fn takes(x: &Tensor<3>, keys: usize) -> bool {
        let [tokens, _, width] = x.dims();
        (1..=MOST_QUERIES).contains(&tokens)
            && (tokens..=MOST_KEYS).contains(&keys)
            && (1..=MOST_WIDTH).contains(&width)
            && x.clone().try_into_primitive::<Cube>().is_ok()
    }

    pub(super) fn attend(q: &Tensor<3>, [keys, values]: [&Tensor<4>; 2], window: Option<usize>) -> Option<Tensor<2>> {
        let ([tokens, heads, width], [batch, kv_heads, count, _]) = (q.dims(), keys.dims());
        let fits = batch == 1 && keys.dims()[3] == width && values.dims() == keys.dims();
        let dtypes = keys.dtype() == q.dtype() && values.dtype() == q.dtype();
        if !takes(q, count) || !fits || !dtypes || !heads.is_multiple_of(kv_heads.max(1)) {
            return None;
        }
        let (q, (keys, key_strides), (values, value_strides)) =
            (floats(q)?, strided_cache(keys)?, strided_cache(values)?);
        if key_strides != value_strides {
            return None;
        }
        let (client, dtype) = (q.client.clone(), q.dtype);
        // Loads must begin at whole loads in every row of the cache.
        let by = [width, key_strides[0], key_strides[1]].map(|numbers| vector_size(&client, dtype, numbers));
        let by = by.into_iter().min()?;
        let sizes = Sizes::new(&client, [heads, kv_heads], width, by);
        let out = empty(&q, [tokens, heads * width], dtype);
        let [head, key] = key_strides;
        attended::launch(
            &client,
            CubeCount::Static(heads as u32, tokens as u32, 1),
            sizes.rows.cube_dim(),
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
