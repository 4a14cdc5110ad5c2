//! Linear layers: the choice between skinny and blocked GEMM, and the epilogue behind it.

use std::cell::RefCell;

use super::activations::Activations;
use super::f32::Linear;
use super::shape::{Epilogue, LinearShape, Precision};
use super::skinny::{GemvOp, SKINNY_MAX_ROWS, skinny};
use super::weight::{Matrix, Weight};
use crate::buffer::size;
use crate::simd::Processor;

thread_local! {
    static INPUTS: RefCell<Activations> = RefCell::default();
}

/// A linear layer with its epilogue.
#[derive(Debug, Clone, Copy)]
pub struct LinearArgs<'a> {
    /// `[output, input]`.
    pub weight: Weight<'a>,
    /// `[output]`.
    pub bias: Option<&'a [f32]>,
    /// Sizes.
    pub shape: LinearShape,
    /// Precision of more than [`SKINNY_MAX_ROWS`] rows.
    pub precision: Precision,
    /// What follows the sums.
    pub epilogue: Epilogue,
}

/// `y = x Wᵀ + b`.
///
/// # Shapes
/// `x` `[rows, input]`, `weight` `[output, input]`, `bias` `[output]` → `[rows, output]`, all row-major.
///
/// # Panics
/// If a length does not match its shape.
pub fn linear(x: &[f32], weight: Weight, bias: Option<&[f32]>, shape: LinearShape, precision: Precision) -> Vec<f32> {
    let mut y = vec![0.0; size([shape.rows, shape.output])];
    linear_to(x, weight, bias, shape, precision, &mut y);
    y
}

/// Computes [`linear`] into an existing buffer.
///
/// # Panics
/// Where [`linear`] does.
pub fn linear_to(
    x: &[f32],
    weight: Weight,
    bias: Option<&[f32]>,
    shape: LinearShape,
    precision: Precision,
    y: &mut [f32],
) {
    LinearArgs { weight, bias, shape, precision, epilogue: Epilogue::Keep }.apply(x, y);
}

impl LinearArgs<'_> {
    /// Computes rows `x` `[rows, input]` into `y` `[rows, output]`.
    ///
    /// # Panics
    /// If a length does not match its shape.
    pub fn apply(&self, x: &[f32], y: &mut [f32]) {
        self.apply_on(Processor::best(), x, y);
    }

    pub(crate) fn apply_on(&self, processor: Processor, x: &[f32], y: &mut [f32]) {
        let Self { weight, bias, shape: LinearShape { rows, input, output }, precision, epilogue } = *self;
        assert_eq!(x.len(), size([rows, input]), "x [rows, input]");
        assert_eq!(y.len(), size([rows, output]), "y [rows, output]");
        let matrix = Matrix::new(weight, [output, input]);
        if let Some(bias) = bias {
            assert_eq!(bias.len(), output, "bias [output]");
        }
        if y.is_empty() {
            return;
        }
        if rows <= SKINNY_MAX_ROWS || input == 0 {
            return self.skinny(processor, x, y);
        }
        #[cfg(target_arch = "x86_64")]
        if let (Precision::Bf16, Some(instructions)) = (precision, processor.bf16) {
            return super::bf16::linear(instructions, x, &matrix, bias, epilogue, y);
        }
        let _ = precision;
        processor.arch.dispatch(Linear { x, matrix: &matrix, bias, y, add: epilogue == Epilogue::Add });
        epilogue.activate(processor.arch, y);
    }

    /// Computes at most [`SKINNY_MAX_ROWS`] rows, or rows without inputs.
    fn skinny(&self, processor: Processor, x: &[f32], y: &mut [f32]) {
        let Self { weight, bias, shape: LinearShape { input, output, .. }, epilogue, .. } = *self;
        let former = (epilogue == Epilogue::Add).then(|| y.to_vec());
        if input == 0 {
            y.fill(0.0);
            if let Some(bias) = bias {
                y.chunks_exact_mut(output).for_each(|row| row.copy_from_slice(bias));
            }
        } else {
            let mut inputs = INPUTS.take();
            inputs.set(x, input);
            skinny(processor.instructions, &mut inputs, &mut [GemvOp { weight, output, bias, y }]);
            INPUTS.set(inputs);
        }
        if let Some(former) = former {
            y.iter_mut().zip(former).for_each(|(y, former)| *y += former);
        }
        epilogue.activate(processor.arch, y);
    }
}

/// Computes `y = x Wᵀ + b` for several weights; up to [`SKINNY_MAX_ROWS`] rows share one read of each.
///
/// # Panics
/// If a length does not match its shape.
pub fn gemv_batch(inputs: &mut Activations, precision: Precision, ops: &mut [GemvOp]) {
    gemv_batch_on(Processor::best(), inputs, precision, ops);
}

pub(super) fn gemv_batch_on(processor: Processor, inputs: &mut Activations, precision: Precision, ops: &mut [GemvOp]) {
    let (rows, input) = (inputs.rows, inputs.input);
    if rows <= SKINNY_MAX_ROWS {
        return skinny(processor.instructions, inputs, ops);
    }
    for GemvOp { weight, output, bias, y } in ops {
        let shape = LinearShape { rows, input, output: *output };
        let affine = LinearArgs { weight: *weight, bias: *bias, shape, precision, epilogue: Epilogue::Keep };
        affine.apply_on(processor, &inputs.plain, y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::f32::{COPIED, DEPTH, ROWS};
    use crate::simd::tests::{cases, up_to};
    use proptest::prelude::*;
    use rayon::prelude::*;

    fn linear_on(
        processor: Processor,
        x: &[f32],
        weight: Weight,
        bias: Option<&[f32]>,
        shape: LinearShape,
        precision: Precision,
    ) -> Vec<f32> {
        let mut y = vec![0.0; shape.rows * shape.output];
        LinearArgs { weight, bias, shape, precision, epilogue: Epilogue::Keep }.apply_on(processor, x, &mut y);
        y
    }

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    /// Largest error against a GEMM in f64.
    fn error(processor: Processor, shape: LinearShape, biased: bool) -> f64 {
        let LinearShape { rows, input, output } = shape;
        let (x, weight, bias) = (numbers(rows * input, 1), numbers(output * input, 2), numbers(output, 3));
        let y = linear_on(processor, &x, Weight::F32(&weight), biased.then_some(&bias), shape, Precision::F32);
        assert_eq!(y.len(), rows * output);
        let mut worst = 0.0_f64;
        for (row, y) in y.chunks(output.max(1)).enumerate() {
            for (out, y) in y.iter().enumerate() {
                let (x, w) = (&x[row * input..][..input], &weight[out * input..][..input]);
                let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let expected = sum + if biased { f64::from(bias[out]) } else { 0.0 };
                worst = worst.max((expected - f64::from(*y)).abs());
            }
        }
        worst
    }

    proptest! {
        #![proptest_config(cases(128))]
        #[test]
        fn any_shape_is_right(
            rows in 0..up_to(70), input in 0..up_to(1200), output in 0..up_to(130), biased: bool,
        ) {
            for processor in Processor::all() {
                let worst = error(processor, LinearShape { rows, input, output }, biased);
                prop_assert!(worst < 1e-3, "{processor:?}: {worst}");
            }
        }
    }

    #[test]
    fn stored_forms_agree_in_full_precision() {
        let shape = LinearShape { rows: 21, input: 300, output: 70 };
        let x = numbers(21 * 300, 1);
        let sample = crate::gemm::weight_tests::Sample::new(4, 32, [70, 300], true, true);
        let mut wide = vec![0.0; 70 * 300];
        wide.chunks_exact_mut(300).enumerate().for_each(|(row, wide)| sample.weight().read(row, 300, 0, wide));
        for processor in Processor::all() {
            let [a, b] = [Weight::F32(&wide), sample.weight()]
                .map(|weight| linear_on(processor, &x, weight, None, shape, Precision::F32));
            assert_eq!(a, b, "{processor:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hours")]
    fn many_rows_and_outputs_are_right() {
        for processor in Processor::all() {
            // More rows than one core keeps, more outputs than one task takes.
            let shape = LinearShape { rows: 2 * ROWS + 5, input: DEPTH + 1, output: 500 };
            assert!(error(processor, shape, true) < 1e-3, "{processor:?}");
            // More rows than are packed at once.
            let shape = LinearShape { rows: ROWS + 9, input: COPIED / ROWS, output: 3 };
            assert!(error(processor, shape, true) < 1e-2, "{processor:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hours")]
    fn what_follows_a_product_follows_it() {
        for (processor, rows, precision) in Processor::all().flat_map(|processor| {
            [(3, Precision::F32), (40, Precision::F32), (3, Precision::Bf16), (40, Precision::Bf16)]
                .map(|(rows, precision)| (processor, rows, precision))
        }) {
            let shape = LinearShape { rows, input: 1500, output: 77 };
            let LinearShape { input, output, .. } = shape;
            let (x, weight, bias) = (numbers(rows * input, 1), numbers(output * input, 2), numbers(output, 3));
            let half: Vec<u16> = weight.iter().map(|w| crate::simd::narrow(*w)).collect();
            let (weight, bias) = (Weight::Bf16(&half), Some(bias.as_slice()));
            let plain = linear_on(processor, &x, weight, bias, shape, precision);
            for epilogue in [Epilogue::Keep, Epilogue::Add, Epilogue::Gelu, Epilogue::GeluTanh] {
                let former = numbers(rows * output, 4);
                let mut expected = plain.clone();
                if epilogue == Epilogue::Add {
                    expected.iter_mut().zip(&former).for_each(|(y, former)| *y += former);
                }
                epilogue.activate(processor.arch, &mut expected);
                let mut y = former;
                LinearArgs { weight, bias, shape, precision, epilogue }.apply_on(processor, &x, &mut y);
                let worst = expected.iter().zip(&y).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{processor:?}, {rows} rows, {precision:?}, {epilogue:?}: {worst}");
            }
        }
    }

    #[test]
    fn a_product_within_a_product_of_the_same_pool_is_right() {
        let input = up_to(400);
        let results: Vec<f64> = (0..up_to(16))
            .into_par_iter()
            .map(|i| error(Processor::best(), LinearShape { rows: 40 + i, input, output: input / 2 }, false))
            .collect();
        assert!(results.into_iter().all(|error| error < 1e-3));
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn sizes_whose_product_wraps_are_a_bug() {
        let shape = LinearShape { rows: usize::MAX / 2 + 1, input: 2, output: 0 };
        linear(&[], Weight::F32(&[]), None, shape, Precision::F32);
    }

    #[test]
    #[should_panic(expected = "weight [output, input]")]
    fn a_weight_of_another_shape_is_a_bug() {
        linear(&[0.0; 6], Weight::F32(&[0.0; 5]), None, LinearShape { rows: 2, input: 3, output: 2 }, Precision::F32);
    }
}
