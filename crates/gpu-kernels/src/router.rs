use burn::tensor::activation::softmax;
use burn::tensor::{DType, Int, Tensor};

/// The best `top_k` experts of each row and their weights: softmax over all experts in f32, the best first, and of equal ones the
/// first. With `normalise`, the weights of a row are made to add up to 1.
///
/// # Shapes
/// `[N, E]` → `[N, k]` each.
pub fn route(logits: Tensor<2>, top_k: usize, normalise: bool) -> (Tensor<2>, Tensor<2, Int>) {
    #[cfg(cube)]
    if let Some(routing) = kernel::route(&logits, top_k, normalise) {
        return routing;
    }
    plain(logits, top_k, normalise)
}

/// [`route`] in plain operations.
pub fn plain(logits: Tensor<2>, top_k: usize, normalise: bool) -> (Tensor<2>, Tensor<2, Int>) {
    let dtype = logits.dtype();
    let (weights, index) = softmax(logits.cast(DType::F32), 1).topk_with_indices(top_k, 1);
    let weights = if normalise { weights.clone() / weights.sum_dim(1) } else { weights };
    (weights.cast(dtype), index)
}

#[cfg(cube)]
mod kernel {
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::{DType, Int, Tensor};
    use cubecl::prelude::*;

    use crate::launch::{empty, floats, grid, integer_tensor, tensor};
    use crate::rows::{LOWEST, Rows, max_of_row, sum_of_row};

    /// Most experts whose probabilities are held in shared memory.
    const MOST_EXPERTS: usize = 2048;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Choice {
        experts: usize,
        top_k: usize,
        normalise: bool,
        rows: Rows,
    }

    impl Choice {
        fn steps(&self) -> usize {
            self.experts.div_ceil(self.rows.lanes)
        }
    }

    /// The first expert with the greatest probability, by halving the units' own best ones.
    #[cube]
    fn best_of_units(
        best: &mut Shared<[f32]>,
        expert: &mut Shared<[u32]>,
        probabilities: &Shared<[f32]>,
        #[comptime] choice: Choice,
    ) {
        let unit = UNIT_POS as usize;
        best[unit] = -1.0f32;
        expert[unit] = 0u32;
        #[unroll]
        for step in 0..comptime!(choice.steps()) {
            let i = step * choice.rows.lanes + unit;
            if i < choice.experts && probabilities[i] > best[unit] {
                best[unit] = probabilities[i];
                expert[unit] = i as u32;
            }
        }
        sync_cube();
        #[unroll]
        for halving in 0..comptime!(choice.rows.halvings()) {
            let distance = comptime!(choice.rows.lanes >> (halving + 1));
            if unit < distance {
                let other = unit + distance;
                let equal = best[other] == best[unit] && expert[other] < expert[unit];
                if best[other] > best[unit] || equal {
                    best[unit] = best[other];
                    expert[unit] = expert[other];
                }
            }
            sync_cube();
        }
    }

    /// One cube per row.
    #[cube(launch)]
    fn chosen<F: Float>(
        logits: &[F],
        weights: &mut [F],
        index: &mut [i32],
        count: usize,
        #[comptime] choice: Choice,
        #[define(F)] _dtype: ElemType,
    ) {
        let unit = UNIT_POS as usize;
        let row = select(CUBE_POS < count, CUBE_POS, count - 1);
        let mut shared = Shared::<[f32]>::new_slice(choice.rows.lanes);
        let mut experts = Shared::<[u32]>::new_slice(choice.rows.lanes);
        let mut probabilities = Shared::<[f32]>::new_slice(choice.experts);
        let mut picked = Shared::<[f32]>::new_slice(choice.top_k);
        let mut greatest = f32::new(LOWEST);
        #[unroll]
        for step in 0..comptime!(choice.steps()) {
            let i = step * choice.rows.lanes + unit;
            if i < choice.experts {
                greatest = max(greatest, f32::cast_from(logits[row * choice.experts + i]));
            }
        }
        let greatest = max_of_row(greatest, &mut shared, choice.rows);
        let mut sum = 0.0f32;
        #[unroll]
        for step in 0..comptime!(choice.steps()) {
            let i = step * choice.rows.lanes + unit;
            if i < choice.experts {
                let share = f32::exp(f32::cast_from(logits[row * choice.experts + i]) - greatest);
                probabilities[i] = share;
                sum += share;
            }
        }
        let sum = sum_of_row(sum, &mut shared, choice.rows);
        let mut total = 0.0f32;
        for rank in 0..choice.top_k {
            best_of_units(&mut shared, &mut experts, &probabilities, choice);
            let share = shared[0] / sum;
            total += share;
            if unit == 0 {
                let best = experts[0];
                picked[rank] = share;
                probabilities[best as usize] = -1.0f32;
                index[row * choice.top_k + rank] = best as i32;
            }
            sync_cube();
        }
        if unit < choice.top_k {
            let share = if comptime!(choice.normalise) { picked[unit] / total } else { picked[unit] };
            weights[row * choice.top_k + unit] = F::cast_from(share);
        }
    }

    pub(super) fn route(logits: &Tensor<2>, top_k: usize, normalise: bool) -> Option<(Tensor<2>, Tensor<2, Int>)> {
        let [count, experts] = logits.dims();
        let logits = floats(logits)?;
        let (client, dtype) = (logits.client.clone(), logits.dtype);
        let rows = Rows { per_cube: 1, ..Rows::new(&client, experts) };
        if count == 0 || top_k == 0 || top_k > rows.lanes.min(experts) || experts > MOST_EXPERTS {
            return None;
        }
        let choice = Choice { experts, top_k, normalise, rows };
        let (weights, index) = (empty(&logits, [count, top_k], dtype), empty(&logits, [count, top_k], DType::I32));
        chosen::launch(
            &client,
            grid(&client, count),
            rows.cube_dim(),
            logits.into_buffer_arg(),
            weights.clone().into_buffer_arg(),
            index.clone().into_buffer_arg(),
            count,
            choice,
            dtype_to_storage_type(dtype),
        );
        Some((tensor(weights), integer_tensor(index)))
    }
}
