//! Dot products of a few rows with a few outputs at once: the inner loops of the skinny GEMM.
#![allow(unsafe_code)]

use super::activations::{Activations, Integers, WIDE};
use super::weight::{Packed, Scales, Weight};
use crate::buffer::prefetch_ahead;
use crate::simd::{Simd, Stored};

/// Adds the products of the inputs that fill no whole vector.
#[cold]
pub(super) fn add_rest<const R: usize>(
    weight: &Weight,
    output: usize,
    inputs: &Activations,
    rows: [usize; R],
    mut done: usize,
    sums: &mut [f32; R],
) {
    let mut values = [0.0; 64];
    while done < inputs.input {
        let values = &mut values[..64.min(inputs.input - done)];
        weight.read(output, inputs.input, done, values);
        for (row, sum) in rows.into_iter().zip(sums.iter_mut()) {
            let x = &inputs.plain[row * inputs.input + done..][..values.len()];
            *sum += x.iter().zip(values.iter()).map(|(x, w)| x * w).sum::<f32>();
        }
        done += values.len();
    }
}

/// Sums each vector horizontally, four at a time.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn add_up<V: Simd, const R: usize, const O: usize>(vectors: [[V::Float; R]; O]) -> [[f32; R]; O] {
    let mut sums = [[0.0; R]; O];
    // Loops of constant length and no closures: closures would not be compiled with the instructions.
    for first in (0..R * O).step_by(4) {
        // SAFETY: passed on.
        unsafe {
            let mut four = [V::zero(); 4];
            for at in 0..4 {
                if first + at < R * O {
                    four[at] = vectors[(first + at) / R][(first + at) % R];
                }
            }
            let four = V::sums(four);
            for at in 0..4 {
                if first + at < R * O {
                    sums[(first + at) / R][(first + at) % R] = four[at];
                }
            }
        }
    }
    sums
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn dot_f32<V: Simd, const R: usize, const O: usize>(
    weight: &[f32],
    output: usize,
    inputs: &Activations,
    rows: [usize; R],
) -> ([[f32; R]; O], usize) {
    let input = inputs.input;
    let weight = &weight[output * input..][..O * input];
    let steps = input / V::LANES;
    let x: [&[f32]; R] = std::array::from_fn(|r| &inputs.plain[rows[r] * input..][..input]);
    // SAFETY: every vector lies in the slices just taken.
    unsafe {
        let mut sums = [[V::zero(); R]; O];
        for step in 0..steps {
            let x: [V::Float; R] = std::array::from_fn(|r| V::load(x[r].as_ptr().add(step * V::LANES)));
            for o in 0..O {
                prefetch_ahead(weight.as_ptr().wrapping_add((step * O + o) * V::LANES));
                let w = V::load(weight.as_ptr().add(o * input + step * V::LANES));
                for r in 0..R {
                    sums[o][r] = V::multiply_add(w, x[r], sums[o][r]);
                }
            }
        }
        (add_up::<V, R, O>(sums), steps * V::LANES)
    }
}

/// # Safety
/// The processor has the instructions of `V`; the activations are packed for bf16.
#[inline(always)]
pub(super) unsafe fn dot_bf16<V: Simd, const R: usize, const O: usize>(
    weight: &[u16],
    output: usize,
    inputs: &Activations,
    rows: [usize; R],
) -> ([[f32; R]; O], usize) {
    let input = inputs.input;
    let weight = &weight[output * input..][..O * input];
    let length = input / (2 * WIDE) * (2 * WIDE);
    let steps = length / (2 * V::LANES);
    let x: [&[f32]; R] = std::array::from_fn(|r| &inputs.even_odd[rows[r] * length..][..length]);
    // SAFETY: every vector lies in the slices just taken: a step's weights are `2 * LANES` numbers, its inputs `LANES` of
    // even and as many of odd positions, both within the same 32.
    unsafe {
        let mut sums = [[[V::zero(); 2]; R]; O];
        for step in 0..steps {
            let at = step * V::LANES / WIDE * 2 * WIDE + step * V::LANES % WIDE;
            let x: [[V::Float; 2]; R] = std::array::from_fn(|r| {
                let x = x[r].as_ptr().add(at);
                [V::load(x), V::load(x.add(WIDE))]
            });
            for o in 0..O {
                prefetch_ahead(weight.as_ptr().wrapping_add((step * O + o) * 2 * V::LANES));
                let w = V::load_int(weight.as_ptr().add(o * input + step * 2 * V::LANES).cast());
                let (even, odd) = (V::lower(w), V::upper(w));
                for r in 0..R {
                    sums[o][r][0] = V::multiply_add(even, x[r][0], sums[o][r][0]);
                    sums[o][r][1] = V::multiply_add(odd, x[r][1], sums[o][r][1]);
                }
            }
        }
        let mut both = [[V::zero(); R]; O];
        for o in 0..O {
            for r in 0..R {
                both[o][r] = V::add(sums[o][r][0], sums[o][r][1]);
            }
        }
        (add_up::<V, R, O>(both), length)
    }
}

/// # Safety
/// The processor has the instructions of `V`; the activations are packed for these weights, whose lengths were checked.
#[inline(always)]
pub(super) unsafe fn dot_packed<V: Simd, const BITS: usize, const R: usize, const O: usize>(
    packed: &Packed,
    output: usize,
    inputs: &Activations,
    rows: [usize; R],
) -> ([[f32; R]; O], usize) {
    // SAFETY: passed on.
    unsafe {
        match packed.scales {
            Scales::Bf16(scales) => dot_scaled::<V, u16, BITS, R, O>(packed, scales, output, inputs, rows),
            Scales::F32(scales) => dot_scaled::<V, f32, BITS, R, O>(packed, scales, output, inputs, rows),
        }
    }
}

/// # Safety
/// The conditions of [`dot_packed`].
#[inline(always)]
unsafe fn dot_scaled<V: Simd, S: Stored, const BITS: usize, const R: usize, const O: usize>(
    packed: &Packed,
    scales: &[S],
    output: usize,
    inputs: &Activations,
    rows: [usize; R],
) -> ([[f32; R]; O], usize) {
    let step = V::LANES * 32 / BITS;
    let group = packed.group;
    // SAFETY: passed on.
    unsafe {
        if group.is_multiple_of(step) || group >= inputs.input {
            return dot_groups::<V, S, BITS, R, O, 1>(packed, scales, output, inputs, rows);
        }
        match (step.is_multiple_of(group), step / group) {
            (true, 2) => dot_groups::<V, S, BITS, R, O, 2>(packed, scales, output, inputs, rows),
            (true, 4) => dot_groups::<V, S, BITS, R, O, 4>(packed, scales, output, inputs, rows),
            // Left to `add_rest`, which dequantises.
            _ => ([[0.0; R]; O], 0),
        }
    }
}

/// Multiplies packed weights with `GROUPS` groups in one vector of words.
///
/// # Safety
/// The conditions of [`dot_packed`].
#[inline(always)]
unsafe fn dot_groups<V: Simd, S: Stored, const BITS: usize, const R: usize, const O: usize, const GROUPS: usize>(
    packed: &Packed,
    scales: &[S],
    output: usize,
    inputs: &Activations,
    rows: [usize; R],
) -> ([[f32; R]; O], usize) {
    let (input, per_word) = (inputs.input, 32 / BITS);
    let length = input / (WIDE * per_word) * (WIDE * per_word);
    let steps = length / (V::LANES * per_word);
    let per_row = packed.words_per_row(input);
    let words = &packed.words[output * per_row..][..O * per_row];
    let groups = input.div_ceil(packed.group);
    let scales = &scales[output * groups..][..O * groups];
    let zeros = packed.zeros.map(|zeros| &zeros[output * groups..][..O * groups]);
    let Integers { laid, scales: row_scales, offsets, .. } = &inputs.integers[BITS / 8];
    let x: [&[i8]; R] = std::array::from_fn(|r| &laid[rows[r] * 2 * length..][..2 * length]);
    let offsets: [&[i32]; R] = std::array::from_fn(|r| &offsets[rows[r] * (length / per_word)..][..length / per_word]);
    // SAFETY: every vector lies in the slices just taken. A step's words hold `LANES * per_word` integers; their inputs lie in
    // the same piece. The groups of all steps are groups of the row.
    unsafe {
        let mut sums = [[V::zero(); R]; O];
        // Counted down: a division in the loop would take as long as the rest of it.
        let (per_group, mut left, mut group) = (packed.group / (V::LANES * per_word), 0, 0);
        for step in 0..steps {
            let at = step * V::LANES;
            let place = at / WIDE * (2 * WIDE * per_word) + 4 * (at % WIDE);
            for o in 0..O {
                prefetch_ahead(words.as_ptr().wrapping_add(O * at + o * V::LANES));
                let w = V::load_int(words.as_ptr().add(o * per_row + at).cast());
                let scale = V::scales::<S, GROUPS>(scales.as_ptr().add(o * groups + group));
                for r in 0..R {
                    let mut sum = V::load_int(offsets[r].as_ptr().add(at));
                    if let Some(zeros) = zeros {
                        let zeros = V::zeros::<GROUPS>(zeros.as_ptr().add(o * groups + group));
                        sum = if BITS == 4 { V::grow::<3>(sum, zeros) } else { V::grow::<7>(sum, zeros) };
                    }
                    sum = V::dot_words::<BITS>(sum, w, x[r].as_ptr().add(place));
                    sums[o][r] = V::multiply_add(V::to_float(sum), scale, sums[o][r]);
                }
            }
            if GROUPS > 1 {
                group += GROUPS;
            } else {
                left += 1;
                if left == per_group {
                    (left, group) = (0, group + 1);
                }
            }
        }
        let mut sums = add_up::<V, R, O>(sums);
        for sums in &mut sums {
            for r in 0..R {
                sums[r] *= row_scales[rows[r]];
            }
        }
        (sums, length)
    }
}
