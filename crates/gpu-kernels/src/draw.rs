//! The choice of an id from logits on a device.

use burn::tensor::activation::softmax;
use burn::tensor::{DType, Int, Tensor, TensorData};

/// Logit of an id that must not be chosen; finite, because some shader languages lack infinity.
pub const NEVER: f32 = -1e30;

/// How an id is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// What logits are divided by.
    pub temperature: f32,
    /// Number of highest logits kept, 0 for all.
    pub top_k: usize,
    /// Probability that the kept ids reach together, 1 for all.
    pub top_p: f32,
    /// Least probability as a share of the highest one's, 0 for all.
    pub min_p: f32,
}

/// A chosen id, on the device.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// `[1, 1]`.
    pub id: Tensor<2, Int>,
    /// `[1]`: 1 if all scores were finite, and those of the choices before; otherwise 0, and the id may be meaningless.
    pub finite: Tensor<1, Int>,
}

/// Chooses the highest score; of equal ones the first. `before` is [`Chosen::finite`] of earlier choices.
///
/// # Shapes
/// `[1, V]`.
pub fn greedy(scores: Tensor<2>, before: Option<Tensor<1, Int>>) -> Chosen {
    #[cfg(cube)]
    if let Some(chosen) = kernel::greedy(&scores, before.as_ref()) {
        return chosen;
    }
    plain_greedy(scores, before)
}

/// Draws an id in one launch: after temperature, [`top_k`], [`top_p`] and [`min_p`], the cumulative distribution in the order of the
/// ids is inverted at `uniform`, a number of 0..1. `before` is [`Chosen::finite`] of earlier choices.
///
/// # Shapes
/// `[1, V]`.
pub fn draw(scores: Tensor<2>, uniform: f32, options: &Draw, before: Option<Tensor<1, Int>>) -> Chosen {
    #[cfg(cube)]
    if let Some(chosen) = kernel::draw(&scores, uniform, options, before.as_ref()) {
        return chosen;
    }
    plain(scores, uniform, options, before)
}

/// [`greedy`] in plain operations.
pub fn plain_greedy(scores: Tensor<2>, before: Option<Tensor<1, Int>>) -> Chosen {
    Chosen { finite: finite(&scores, before), id: scores.argmax(1) }
}

/// [`draw`] in plain operations.
pub fn plain(scores: Tensor<2>, uniform: f32, options: &Draw, before: Option<Tensor<1, Int>>) -> Chosen {
    let Draw { temperature, top_k: k, top_p: p, min_p: share } = *options;
    let (finite, vocabulary) = (finite(&scores, before), scores.dims()[1]);
    let scores = min_p(top_p(top_k(soften(scores.cast(DType::F32), temperature), k), p), share);
    let uniform: Tensor<2> = Tensor::from_data(TensorData::new(vec![uniform], [1, 1]), (&scores.device(), DType::F32));
    let cumulative = softmax(scores, 1).cumsum(1); // [1, V]
    let total = cumulative.clone().narrow(1, vocabulary - 1, 1);
    let below = cumulative.lower_equal(uniform * total).int().sum_dim(1); // [1, 1]
    Chosen { id: below.clamp_max(vocabulary as i64 - 1), finite }
}

fn finite(scores: &Tensor<2>, before: Option<Tensor<1, Int>>) -> Tensor<1, Int> {
    let finite = scores.clone().is_finite().all().int();
    match before {
        Some(before) => before * finite,
        None => finite,
    }
}

/// Divides logits by the temperature; impossible ids stay impossible.
///
/// # Shapes
/// `[B, V]` → `[B, V]`.
pub fn soften(scores: Tensor<2>, temperature: f32) -> Tensor<2> {
    let impossible = scores.clone().lower_equal_elem(NEVER);
    (scores / temperature).mask_fill(impossible, NEVER)
}

/// Keeps the `k` highest logits of each row (all for 0); equal logits at the boundary are all kept.
pub fn top_k(scores: Tensor<2>, k: usize) -> Tensor<2> {
    let vocabulary = scores.dims()[1];
    if k == 0 || k >= vocabulary {
        return scores;
    }
    let smallest = scores.clone().topk(k, 1).narrow(1, k - 1, 1); // [B, 1]
    keep_from(scores, smallest)
}

/// Keeps the smallest set of highest logits whose probability reaches `p`.
pub fn top_p(scores: Tensor<2>, p: f32) -> Tensor<2> {
    if p >= 1.0 {
        return scores;
    }
    let sorted = scores.clone().sort_descending(1);
    let probability = softmax(sorted.clone(), 1);
    let before = probability.clone().cumsum(1) - probability; // probability of all better ids
    let smallest = sorted.mask_fill(before.greater_equal_elem(p), f32::MAX).min_dim(1); // [B, 1]
    keep_from(scores, smallest)
}

/// Keeps the logits whose probability is at least `share` of the highest one's (all for 0).
pub fn min_p(scores: Tensor<2>, share: f32) -> Tensor<2> {
    if share <= 0.0 {
        return scores;
    }
    let smallest = scores.clone().max_dim(1) + share.ln(); // [B, 1]
    keep_from(scores, smallest)
}

fn keep_from(scores: Tensor<2>, smallest: Tensor<2>) -> Tensor<2> {
    let shape = scores.dims();
    let dropped = scores.clone().lower(smallest.expand(shape));
    scores.mask_fill(dropped, NEVER)
}

#[cfg(cube)]
mod kernel {
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::{DType, Int, Tensor};
    use burn_cubecl::tensor::CubeTensor;
    use cubecl::prelude::*;

    use super::{Chosen, Draw, NEVER};
    use crate::launch::{empty, floats, integer_tensor, integers};
    use crate::rows::{LOWEST, Rows, max_of_row, sum_of_row};

    /// Values of one digit of a key.
    const DIGITS: usize = 16;
    const BITS: usize = 4;
    /// Greater than every finite score.
    const HIGHEST: f32 = 3.402_823_4e38;

    /// Which ids are cut off, known to the compiler. One cube takes the whole row, so that sums have one order.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Cut {
        rows: Rows,
        top_k: bool,
        top_p: bool,
        min_p: bool,
    }

    /// Where a cut is to be made.
    #[derive(CubeType, Clone, Copy)]
    struct Goal {
        /// Only keys from this one on count.
        from: u32,
        /// What the weights of all greater keys stay below.
        weight: f32,
    }

    /// A number whose order among others is that of the score.
    #[cube]
    fn key_of(score: f32) -> u32 {
        let bits = u32::reinterpret(score);
        select(bits >> 31u32 == 1u32, !bits, bits | 0x8000_0000u32)
    }

    #[cube]
    fn softened(score: f32, temperature: f32) -> f32 {
        select(score <= f32::new(NEVER), f32::new(NEVER), score / temperature)
    }

    /// The smallest key for which the weights of all greater ones add up to less than the goal, digit by digit from the highest. A
    /// weight is 1, or the exponential of the distance from the greatest score.
    #[cube]
    fn threshold<F: Float>(
        scores: &[F],
        count: usize,
        temperature: f32,
        greatest: f32,
        goal: Goal,
        counters: &mut Shared<[f32]>,
        sums: &mut Shared<[f32]>,
        #[comptime] by_probability: bool,
        #[comptime] units: usize,
    ) -> u32 {
        let unit = UNIT_POS as usize;
        let mut key = 0u32;
        let mut above = 0.0f32;
        #[unroll]
        for pass in 0..8usize {
            let shift = comptime!((32 - BITS * (pass + 1)) as u32);
            for digit in 0..DIGITS {
                counters[digit * units + unit] = 0.0f32;
            }
            let steps = count.div_ceil(units);
            for step in 0..steps {
                let i = step * units + unit;
                if i < count {
                    let score = softened(f32::cast_from(scores[i]), temperature);
                    let found = key_of(score);
                    // In the first pass no digit is decided yet, and a shift by the whole width is undefined.
                    let open = if comptime!(pass == 0) {
                        true.runtime()
                    } else {
                        found >> comptime!(shift + BITS as u32) == key >> comptime!(shift + BITS as u32)
                    };
                    if open && found >= goal.from {
                        let digit = ((found >> shift) & 15u32) as usize;
                        let weight =
                            if comptime!(by_probability) { f32::exp(score - greatest) } else { 1.0f32.runtime() };
                        counters[digit * units + unit] += weight;
                    }
                }
            }
            sync_cube();
            if unit < DIGITS {
                let mut sum = 0.0f32;
                for other in 0..units {
                    sum += counters[unit * units + other];
                }
                sums[unit] = sum;
            }
            sync_cube();
            let mut weight = above;
            let mut digit = 15u32;
            for down in 0..DIGITS {
                let at = DIGITS - 1 - down;
                if weight < goal.weight {
                    digit = at as u32;
                    above = weight;
                }
                weight += sums[at];
            }
            key |= digit << shift;
            sync_cube();
        }
        key
    }

    /// The greatest score that the unit sees, and how many of its scores are not finite.
    #[cube]
    fn greatest_of_unit<F: Float>(scores: &[F], count: usize, #[comptime] units: usize) -> (f32, f32) {
        let mut greatest = f32::new(LOWEST);
        let mut odd = 0.0f32;
        let steps = count.div_ceil(units);
        for step in 0..steps {
            let i = step * units + UNIT_POS as usize;
            if i < count {
                let score = f32::cast_from(scores[i]);
                // Neither NaN nor infinity is within the bounds.
                if !(score >= f32::new(-HIGHEST) && score <= f32::new(HIGHEST)) {
                    odd += 1.0f32;
                }
                greatest = max(greatest, score);
            }
        }
        (greatest, odd)
    }

    /// The flag of a row with that many scores that are not finite, and of the rows before.
    #[cube]
    fn flag(odd: f32, before: &[i32], #[comptime] follows: bool) -> i32 {
        if comptime!(follows) { select(odd == 0.0f32, before[0], 0i32) } else { select(odd == 0.0f32, 1i32, 0i32) }
    }

    #[cube(launch)]
    fn best<F: Float>(
        scores: &[F],
        before: &[i32],
        id: &mut [i32],
        finite: &mut [i32],
        count: usize,
        #[comptime] rows: Rows,
        #[comptime] follows: bool,
        #[define(F)] _dtype: ElemType,
    ) {
        let unit = UNIT_POS as usize;
        let mut shared = Shared::<[f32]>::new_slice(rows.lanes);
        let (of_unit, odd) = greatest_of_unit::<F>(scores, count, rows.lanes);
        let greatest = max_of_row(of_unit, &mut shared, rows);
        let odd = sum_of_row(odd, &mut shared, rows);
        // Of equal scores the first is chosen.
        let mut first = count;
        let steps = count.div_ceil(rows.lanes);
        for step in 0..steps {
            let i = step * rows.lanes + unit;
            if i < count && f32::cast_from(scores[i]) == greatest && i < first {
                first = i;
            }
        }
        let mut firsts = Shared::<[u32]>::new_slice(rows.lanes);
        firsts[unit] = first as u32;
        sync_cube();
        if unit == 0 {
            let mut smallest = firsts[0];
            for other in 1..rows.lanes {
                smallest = min(smallest, firsts[other]);
            }
            // Without any finite score there is none.
            id[0] = select((smallest as usize) < count, smallest as i32, 0i32);
            finite[0] = flag(odd, before, follows);
        }
    }

    #[cube(launch)]
    fn drawn<F: Float>(
        scores: &[F],
        flags: &[i32],
        id: &mut [i32],
        finite: &mut [i32],
        count: usize,
        uniform: f32,
        temperature: f32,
        top_k: f32,
        top_p: f32,
        min_p: f32,
        #[comptime] cut: Cut,
        #[comptime] follows: bool,
        #[define(F)] _dtype: ElemType,
    ) {
        let units = comptime!(cut.rows.lanes);
        let unit = UNIT_POS as usize;
        let mut shared = Shared::<[f32]>::new_slice(units);
        let mut counters = Shared::<[f32]>::new_slice(comptime!(DIGITS * cut.rows.lanes));
        let mut sums = Shared::<[f32]>::new_slice(DIGITS);
        let (of_unit, odd) = greatest_of_unit::<F>(scores, count, units);
        let greatest = softened(max_of_row(of_unit, &mut shared, cut.rows), temperature);
        let odd = sum_of_row(odd, &mut shared, cut.rows);

        let mut from = 0u32;
        if comptime!(cut.top_k) {
            let goal = Goal { from, weight: top_k };
            from = threshold::<F>(scores, count, temperature, greatest, goal, &mut counters, &mut sums, false, units);
        }
        let chunk = count.div_ceil(units);
        if comptime!(cut.top_p) {
            let mut mass = 0.0f32;
            for step in 0..chunk {
                let i = step * units + unit;
                if i < count {
                    mass += weight_of::<F>(scores[i], temperature, greatest, from);
                }
            }
            let mass = sum_of_row(mass, &mut shared, cut.rows);
            // The best id is kept even for a probability of nothing.
            let goal = Goal { from, weight: max(top_p * mass, 1e-30f32) };
            let smallest =
                threshold::<F>(scores, count, temperature, greatest, goal, &mut counters, &mut sums, true, units);
            from = max(from, smallest);
        }
        if comptime!(cut.min_p) {
            from = max(from, key_of(greatest + f32::ln(min_p)));
        }

        // Each unit adds up a run of neighbouring ids; then the run that the draw falls into is walked through.
        let mut mass = 0.0f32;
        for step in 0..chunk {
            let i = unit * chunk + step;
            if i < count {
                mass += weight_of::<F>(scores[i], temperature, greatest, from);
            }
        }
        shared[unit] = mass;
        sync_cube();
        let mut total = 0.0f32;
        for other in 0..units {
            total += shared[other];
        }
        let target = uniform * total;
        let mut before = 0.0f32;
        let mut owner = 0usize;
        let mut open = true;
        let mut sum = 0.0f32;
        for other in 0..units {
            let mass = shared[other];
            if open && mass > 0.0f32 {
                owner = other;
                before = sum;
                open = sum + mass <= target;
            }
            sum += mass;
        }
        for step in 0..chunk.div_ceil(units) {
            let i = step * units + unit;
            if i < chunk && owner * chunk + i < count {
                counters[i] = weight_of::<F>(scores[owner * chunk + i], temperature, greatest, from);
            }
        }
        sync_cube();
        if unit == 0 {
            let mut chosen = owner * chunk;
            let mut open = true;
            for i in 0..chunk {
                if open && owner * chunk + i < count {
                    let weight = counters[i];
                    if weight > 0.0f32 {
                        chosen = owner * chunk + i;
                        before += weight;
                        open = before <= target;
                    }
                }
            }
            id[0] = chosen as i32;
            finite[0] = flag(odd, flags, follows);
        }
    }

    /// The exponential of a score's distance from the greatest one, or nothing for one that is not kept.
    #[cube]
    fn weight_of<F: Float>(score: F, temperature: f32, greatest: f32, from: u32) -> f32 {
        let score = softened(f32::cast_from(score), temperature);
        select(key_of(score) >= from, f32::exp(score - greatest), 0.0f32)
    }

    /// The row of scores and what it is shared by; `None` for rows that no kernel takes.
    fn row(scores: &Tensor<2>) -> Option<(CubeTensor, Rows)> {
        let [rows, vocabulary] = scores.dims();
        let scores = floats(scores)?;
        let sharing = Rows { per_cube: 1, ..Rows::new(&scores.client, usize::MAX / 2) };
        let memory = (DIGITS + 2) * sharing.lanes * size_of::<f32>() + 1024;
        // The run of one unit is held in the counters.
        let fits = vocabulary.div_ceil(sharing.lanes) <= DIGITS * sharing.lanes
            && memory <= scores.client.properties().hardware.max_shared_memory_size;
        (rows == 1 && vocabulary > 0 && fits).then_some((scores, sharing))
    }

    pub(super) fn greedy(scores: &Tensor<2>, before: Option<&Tensor<1, Int>>) -> Option<Chosen> {
        let vocabulary = scores.dims()[1];
        let (scores, rows) = row(scores)?;
        let flags = flags(&scores, before)?;
        let (client, dtype) = (scores.client.clone(), scores.dtype);
        let (id, finite) = (empty(&scores, [1, 1], DType::I32), empty(&scores, [1], DType::I32));
        best::launch(
            &client,
            CubeCount::Static(1, 1, 1),
            rows.cube_dim(),
            scores.into_buffer_arg(),
            flags.into_buffer_arg(),
            id.clone().into_buffer_arg(),
            finite.clone().into_buffer_arg(),
            vocabulary,
            rows,
            before.is_some(),
            dtype_to_storage_type(dtype),
        );
        Some(Chosen { id: integer_tensor(id), finite: integer_tensor(finite) })
    }

    /// The flag of earlier choices; without any, which then nothing reads, the scores stand in.
    fn flags(scores: &CubeTensor, before: Option<&Tensor<1, Int>>) -> Option<CubeTensor> {
        before.map_or(Some(scores.clone()), integers)
    }

    pub(super) fn draw(
        scores: &Tensor<2>,
        uniform: f32,
        options: &Draw,
        before: Option<&Tensor<1, Int>>,
    ) -> Option<Chosen> {
        let vocabulary = scores.dims()[1];
        let (scores, rows) = row(scores)?;
        let flags = flags(&scores, before)?;
        let (client, dtype) = (scores.client.clone(), scores.dtype);
        let (id, finite) = (empty(&scores, [1, 1], DType::I32), empty(&scores, [1], DType::I32));
        let Draw { temperature, top_k, top_p, min_p } = *options;
        let cut = Cut { rows, top_k: (1..vocabulary).contains(&top_k), top_p: top_p < 1.0, min_p: min_p > 0.0 };
        drawn::launch(
            &client,
            CubeCount::Static(1, 1, 1),
            rows.cube_dim(),
            scores.into_buffer_arg(),
            flags.into_buffer_arg(),
            id.clone().into_buffer_arg(),
            finite.clone().into_buffer_arg(),
            vocabulary,
            uniform,
            temperature,
            top_k as f32,
            top_p,
            min_p,
            cut,
            before.is_some(),
            dtype_to_storage_type(dtype),
        );
        Some(Chosen { id: integer_tensor(id), finite: integer_tensor(finite) })
    }
}
