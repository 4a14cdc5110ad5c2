use burn::tensor::Tensor;

/// Writes rows into keys and values in place, in one launch for both.
///
/// # Shapes
/// `store` `[B, K, C, Dh]`, `rows` `[B, K, T, Dh]`, which take the places `start..start + T` → `[B, K, C, Dh]`.
///
/// # Panics
/// If the rows do not fit.
pub fn write_rows(store: [Tensor<4>; 2], rows: [Tensor<4>; 2], start: usize) -> [Tensor<4>; 2] {
    #[cfg(cube)]
    if kernel::takes(&store, &rows, start) {
        return kernel::write_rows(store, rows, start);
    }
    plain(store, rows, start)
}

/// [`write_rows`] in plain operations.
pub fn plain(store: [Tensor<4>; 2], rows: [Tensor<4>; 2], start: usize) -> [Tensor<4>; 2] {
    let mut rows = rows.into_iter();
    store.map(|store| {
        let rows = rows.next().expect("as many as stores");
        let [batch, heads, count, width] = rows.dims();
        store.slice_assign([0..batch, 0..heads, start..start + count, 0..width], rows)
    })
}

#[cfg(cube)]
mod kernel {
    use burn::backend::Cube;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use burn_cubecl::tensor::CubeTensor;
    use cubecl::prelude::*;

    use crate::launch::{tensor, vector_size};

    /// Loads between the heads and the tokens of the new rows.
    #[derive(CubeLaunch, CubeType, Clone, Copy)]
    struct Strides {
        head: usize,
        token: usize,
    }

    #[cube(launch)]
    fn written<F: Float, N: Size>(
        keys: &[Vector<F, N>],
        values: &[Vector<F, N>],
        key_store: &mut [Vector<F, N>],
        value_store: &mut [Vector<F, N>],
        of_keys: Strides,
        of_values: Strides,
        tokens: usize,
        start: usize,
        capacity: usize,
        total: usize,
        #[comptime] loads: usize,
        #[define(F)] _dtype: ElemType,
    ) {
        if ABSOLUTE_POS < total {
            let (i, row) = (ABSOLUTE_POS % loads, ABSOLUTE_POS / loads);
            let (token, head) = (row % tokens, row / tokens);
            let at = (head * capacity + start + token) * loads + i;
            key_store[at] = keys[head * of_keys.head + token * of_keys.token + i];
            value_store[at] = values[head * of_values.head + token * of_values.token + i];
        }
    }

    /// The tensor's primitive, if it lies on a CubeCL device and tracks no gradient.
    fn primitive(x: &Tensor<4>) -> Option<CubeTensor> {
        x.clone().try_into_primitive::<Cube>().ok()
    }

    /// Whether the kernel can write: stores that nothing else reads, and rows whose numbers lie side by side.
    pub(super) fn takes(store: &[Tensor<4>; 2], rows: &[Tensor<4>; 2], start: usize) -> bool {
        let [batch, heads, capacity, width] = store[0].dims();
        let [_, _, tokens, _] = rows[0].dims();
        let shapes = store.iter().all(|store| store.dims() == [batch, heads, capacity, width])
            && rows.iter().all(|rows| rows.dims() == [1, heads, tokens, width]);
        let dtypes = store.iter().chain(rows).all(|x| x.dtype() == store[0].dtype());
        let side_by_side = |x: &Tensor<4>| primitive(x).is_some_and(|x| x.meta.strides()[3] == 1);
        let contiguous = |x: &Tensor<4>| primitive(x).is_some_and(|x| x.is_contiguous());
        batch == 1
            && shapes
            && dtypes
            && heads * tokens * width > 0
            && start + tokens <= capacity
            && store.iter().all(contiguous)
            && rows.iter().all(side_by_side)
    }

    pub(super) fn write_rows(store: [Tensor<4>; 2], rows: [Tensor<4>; 2], start: usize) -> [Tensor<4>; 2] {
        let ([_, heads, capacity, width], [_, _, tokens, _]) = (store[0].dims(), rows[0].dims());
        let own = |x: Tensor<4>| x.try_into_primitive::<Cube>().expect("it was looked at before");
        // What another tensor reads must not change under it.
        let store = store.map(own).map(|x| if x.can_mut() { x } else { x.copy() });
        let [keys, values] = rows.map(own);
        let (client, dtype) = (keys.client.clone(), keys.dtype);
        let strides = [&keys, &values].map(|x| [x.meta.strides()[1], x.meta.strides()[2]]);
        // Loads must begin at whole loads in every row.
        let numbers = strides.into_iter().flatten().chain([width]);
        let by = numbers.map(|numbers| vector_size(&client, dtype, numbers)).min().unwrap_or(1);
        let [of_keys, of_values] = strides.map(|[head, token]| StridesLaunch::new(head / by, token / by));
        let total = heads * tokens * width / by;
        let dim = CubeDim::new_1d(128.min(client.properties().hardware.max_units_per_cube));
        let [key_store, value_store] = store.clone();
        written::launch(
            &client,
            cubecl::calculate_cube_count_elemwise(&client, total, dim),
            dim,
            by,
            keys.into_buffer_arg(),
            values.into_buffer_arg(),
            key_store.into_buffer_arg(),
            value_store.into_buffer_arg(),
            of_keys,
            of_values,
            tokens,
            start,
            capacity,
            total,
            width / by,
            dtype_to_storage_type(dtype),
        );
        store.map(tensor)
    }
}
