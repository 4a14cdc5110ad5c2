use burn::tensor::{DType, Int, Tensor};

/// Rows of a table, and their sum with `sum`, in f32: for embeddings that are read as they are and added up over several tables. In one
/// launch.
///
/// # Shapes
/// `table` `[V, D]`, `ids` `[N]`, `sum` `[N, D]` → rows `[N, D]`, sum `[N, D]`.
pub fn embed_add(table: Tensor<2>, ids: Tensor<1, Int>, sum: Option<Tensor<2>>) -> (Tensor<2>, Tensor<2>) {
    #[cfg(cube)]
    if let Some(both) = kernel::embed_add(&table, &ids, sum.as_ref()) {
        return both;
    }
    plain(table, ids, sum)
}

/// Whether [`embed_add`] has a kernel for the table, so that the look-up is better left to it.
pub fn embeds(table: &Tensor<2>, ids: &Tensor<1, Int>) -> bool {
    kernel::takes(table, ids)
}

/// [`embed_add`] in plain operations.
pub fn plain(table: Tensor<2>, ids: Tensor<1, Int>, sum: Option<Tensor<2>>) -> (Tensor<2>, Tensor<2>) {
    let rows = table.select(0, ids);
    let widened = rows.clone().cast(DType::F32);
    let sum = match sum {
        Some(sum) => sum + widened,
        None => widened,
    };
    (rows, sum)
}

#[cfg(cube)]
mod kernel {
    use burn::backend::Cube;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::{DType, Int, Tensor};
    use cubecl::prelude::*;

    use crate::launch::{empty, floats, integers, tensor, vector_size};

    #[cube(launch)]
    fn embedded<F: Float, N: Size>(
        table: &[Vector<F, N>],
        ids: &[i32],
        sum: &[Vector<f32, N>],
        rows: &mut [Vector<F, N>],
        out: &mut [Vector<f32, N>],
        total: usize,
        vocabulary: u32,
        #[comptime] loads: usize,
        #[comptime] added: bool,
        #[define(F)] _dtype: ElemType,
    ) {
        if ABSOLUTE_POS < total {
            // An id outside the table reads its last row.
            let id = u32::cast_from(ids[ABSOLUTE_POS / loads]);
            let row = usize::cast_from(select(id < vocabulary, id, vocabulary - 1));
            let values = table[row * loads + ABSOLUTE_POS % loads];
            rows[ABSOLUTE_POS] = values;
            let widened = Vector::<f32, N>::cast_from(values);
            out[ABSOLUTE_POS] = if comptime!(added) { sum[ABSOLUTE_POS] + widened } else { widened };
        }
    }

    pub(super) fn takes(table: &Tensor<2>, ids: &Tensor<1, Int>) -> bool {
        let on_device = table.clone().try_into_primitive::<Cube>().is_ok();
        on_device && ids.dtype() == DType::I32 && table.shape().num_elements() > 0 && ids.dims() != [0]
    }

    pub(super) fn embed_add(
        table: &Tensor<2>,
        ids: &Tensor<1, Int>,
        sum: Option<&Tensor<2>>,
    ) -> Option<(Tensor<2>, Tensor<2>)> {
        let ([vocabulary, width], [count]) = (table.dims(), ids.dims());
        let fits = sum.is_none_or(|sum| sum.dims() == [count, width] && sum.dtype() == DType::F32);
        if !fits || !takes(table, ids) {
            return None;
        }
        let (table, ids) = (floats(table)?, integers(ids)?);
        // Without a sum nothing reads it.
        let before = sum.map_or(Some(table.clone()), floats)?;
        let (client, dtype) = (table.client.clone(), table.dtype);
        let by = vector_size(&client, dtype, width).min(vector_size(&client, DType::F32, width));
        let (rows, out) = (empty(&table, [count, width], dtype), empty(&table, [count, width], DType::F32));
        let total = count * width / by;
        let dim = CubeDim::new_1d(128.min(client.properties().hardware.max_units_per_cube));
        embedded::launch(
            &client,
            cubecl::calculate_cube_count_elemwise(&client, total, dim),
            dim,
            by,
            table.into_buffer_arg(),
            ids.into_buffer_arg(),
            before.into_buffer_arg(),
            rows.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            total,
            vocabulary as u32,
            width / by,
            sum.is_some(),
            dtype_to_storage_type(dtype),
        );
        Some((tensor(rows), tensor(out)))
    }
}

#[cfg(not(cube))]
mod kernel {
    use burn::tensor::{Int, Tensor};

    pub(super) fn takes(_: &Tensor<2>, _: &Tensor<1, Int>) -> bool {
        false
    }
}
