use burn::tensor::activation::softmax as plain_softmax;
use burn::tensor::{DType, Tensor};

/// Softmax over the last axis in f32, as `dtype`. A bias, if there is one, is added first.
///
/// # Shapes
/// `scores` `[B, K, G * T, S]`, `bias` `[1, 1, 1, T, S]` → `[B, K, G * T, S]`.
pub fn softmax(scores: Tensor<4>, bias: Option<&Tensor<5>>, dtype: DType) -> Tensor<4> {
    #[cfg(cube)]
    if let Some(y) = kernel::softmax(&scores, bias, dtype) {
        return y;
    }
    plain(scores, bias, dtype)
}

/// [`softmax`] in plain operations.
pub fn plain(scores: Tensor<4>, bias: Option<&Tensor<5>>, dtype: DType) -> Tensor<4> {
    let [batch, heads, rows, keys] = scores.dims();
    let scores = scores.cast(DType::F32);
    let biased = match bias {
        None => scores,
        Some(bias) => {
            let queries = bias.dims()[3];
            let grouped = scores.reshape([batch, heads, rows / queries.max(1), queries, keys]) + bias.clone();
            grouped.reshape([batch, heads, rows, keys])
        }
    };
    plain_softmax(biased, 3).cast(dtype)
}

#[cfg(cube)]
mod kernel {
    use burn::backend::TensorMetadata;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::{DType, Tensor};
    use cubecl::prelude::*;

    use crate::launch::{empty, floats, grid, tensor};
    use crate::rows::{LOWEST, Rows, max_of_row, row_of_unit, sum_of_row};

    #[cube]
    fn score<S: Float, B: Float>(x: S, bias: &[B], at: usize, #[comptime] biased: bool) -> f32 {
        let score = f32::cast_from(x);
        if comptime!(biased) { score + f32::cast_from(bias[at]) } else { score }
    }

    #[cube(launch)]
    fn normalised<S: Float, B: Float, O: Float>(
        scores: &[S],
        bias: &[B],
        out: &mut [O],
        count: usize,
        keys: usize,
        queries: usize,
        #[comptime] biased: bool,
        #[comptime] rows: Rows,
        #[define(S, B, O)] _dtypes: [ElemType; 3],
    ) {
        let row = row_of_unit(rows);
        // Units past the last row compute the last one, because all must meet in the sums.
        let safe = select(row < count, row, count - 1);
        let (at, bias_at) = (safe * keys, safe % queries * keys);
        let steps = keys.div_ceil(rows.lanes);
        let mut greatest = f32::new(LOWEST);
        for step in 0..steps {
            let i = step * rows.lanes + UNIT_POS_X as usize;
            if i < keys {
                greatest = max(greatest, score::<S, B>(scores[at + i], bias, bias_at + i, biased));
            }
        }
        let mut shared = Shared::<[f32]>::new_slice(comptime!(rows.units()));
        let greatest = max_of_row(greatest, &mut shared, rows);
        let mut sum = 0.0f32;
        for step in 0..steps {
            let i = step * rows.lanes + UNIT_POS_X as usize;
            if i < keys {
                sum += f32::exp(score::<S, B>(scores[at + i], bias, bias_at + i, biased) - greatest);
            }
        }
        let sum = sum_of_row(sum, &mut shared, rows);
        if row < count {
            for step in 0..steps {
                let i = step * rows.lanes + UNIT_POS_X as usize;
                if i < keys {
                    let share = f32::exp(score::<S, B>(scores[at + i], bias, bias_at + i, biased) - greatest) / sum;
                    out[at + i] = O::cast_from(share);
                }
            }
        }
    }

    pub(super) fn softmax(scores: &Tensor<4>, bias: Option<&Tensor<5>>, dtype: DType) -> Option<Tensor<4>> {
        let [batch, heads, rows, keys] = scores.dims();
        let (count, queries) = (batch * heads * rows, bias.map_or(1, |bias| bias.dims()[3]));
        let fits = bias.is_none_or(|bias| bias.dims() == [1, 1, 1, queries, keys] && rows.is_multiple_of(queries));
        if count * keys == 0 || !fits {
            return None;
        }
        let scores = floats(scores)?;
        // Without a bias nothing reads it.
        let values = bias.map_or(Some(scores.clone()), floats)?;
        let (client, out) = (scores.client.clone(), empty(&scores, scores.shape(), dtype));
        let (sharing, dtypes) = (Rows::new(&client, keys), [scores.dtype, values.dtype, dtype]);
        normalised::launch(
            &client,
            grid(&client, count.div_ceil(sharing.per_cube)),
            sharing.cube_dim(),
            scores.into_buffer_arg(),
            values.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count,
            keys,
            queries,
            bias.is_some(),
            sharing,
            dtypes.map(dtype_to_storage_type),
        );
        Some(tensor(out))
    }
}
