//! Skinny GEMM: a few rows with weights as they are stored in a file. Reading the weights is what takes the time.
//!
//! Packed weights are multiplied as integers. For that the activations are quantised to 15 bits with one scale per row, a hundred
//! times finer than the weights, and packed in the order in which the integers come out of their words.
#![allow(unsafe_code)]

use std::ops::Range;

use rayon::prelude::*;
use smallvec::SmallVec;

use super::activations::Activations;
use super::dot::{add_rest, dot_bf16, dot_f32, dot_packed};
use super::weight::{Matrix, Weight};
use crate::buffer::{DisjointCols, size};
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Instructions, Scalar, Simd};

/// Fewest bytes of weights that one task reads.
const TASK: usize = 32 << 10;
/// Most tasks for each thread of a parallel loop: enough to be balanced. Few long pieces are read faster than many short ones, because
/// memory comes to full speed only after some lines, and because what is prefetched at the end of a piece is another task's.
const TASKS_PER_THREAD: usize = 8;

/// One of several GEMVs (or skinny GEMMs) that share their activations.
#[derive(Debug)]
pub struct GemvOp<'a> {
    /// `[output, input]`.
    pub weight: Weight<'a>,
    /// Width of an output row.
    pub output: usize,
    /// `[output]`.
    pub bias: Option<&'a [f32]>,
    /// `[rows, output]`, overwritten.
    pub y: &'a mut [f32],
}

/// Most rows of a skinny GEMM: with more, arithmetic takes longer than reading the weights. Each row gets the same result as
/// alone.
pub const SKINNY_MAX_ROWS: usize = 8;

/// Computes [`super::gemv_batch`] as skinny GEMMs, in one parallel loop over all weights.
pub(crate) fn skinny(instructions: Instructions, inputs: &mut Activations, products: &mut [GemvOp]) {
    let all_bytes: usize = products.iter().map(|product| product.weight.bytes()).sum();
    let products: SmallVec<[_; 4]> = products
        .iter_mut()
        .map(|GemvOp { weight, output, bias, y }| {
            let matrix = Matrix::new(*weight, [*output, inputs.input]);
            assert_eq!(y.len(), size([inputs.rows, *output]), "y [rows, output]");
            assert!(bias.is_none_or(|bias| bias.len() == *output), "bias [output]");
            inputs.prepare(instructions, &matrix);
            (pieces(weight.bytes(), all_bytes, *output), matrix, *bias, *output, DisjointCols::new(y, *output))
        })
        .collect();
    if inputs.rows == 0 {
        return;
    }
    let inputs = &*inputs;
    let rows: &[usize] = &(0..inputs.rows).collect::<SmallVec<[usize; 16]>>();
    let total: usize = products.iter().map(|(parts, ..)| parts).sum();
    (0..total).into_par_iter().for_each(|mut task| {
        let mut products = products.iter();
        let (parts, matrix, bias, output, y) = loop {
            let product = products.next().expect("there are as many tasks as parts");
            if task < product.0 {
                break product;
            }
            task -= product.0;
        };
        let range = output * task / parts..output * (task + 1) / parts;
        multiply(instructions, inputs, rows, matrix, range, |row, at, sum| {
            // SAFETY: these outputs are this task's alone, and the piece is dropped at once.
            let y = unsafe { y.piece(row, at..at + 1) };
            y[0] = sum + bias.map_or(0.0, |bias| bias[at]);
        });
    });
}

/// Number of tasks for a matrix of `bytes` among those of one parallel loop, which have `all_bytes`.
pub(crate) fn pieces(bytes: usize, all_bytes: usize, output: usize) -> usize {
    let most = TASKS_PER_THREAD * rayon::current_num_threads();
    let share = (most as f64 * bytes as f64 / all_bytes.max(1) as f64).ceil() as usize;
    (bytes / TASK).min(share).clamp(1, output.max(1))
}

/// Most rows and outputs that are computed before they are emitted.
const ROWS: usize = SKINNY_MAX_ROWS;
const OUTPUTS: usize = 64;

/// Computes some outputs of some rows; `emit` gets the row's index in `rows`, the output and the sum.
///
/// # Panics
/// If the activations have another width than the matrix or are not packed for it, or a row or output does not exist.
pub(crate) fn multiply(
    instructions: Instructions,
    inputs: &Activations,
    rows: &[usize],
    matrix: &Matrix,
    outputs: Range<usize>,
    mut emit: impl FnMut(usize, usize, f32),
) {
    let [output, input] = matrix.shape();
    assert!(inputs.input == input && outputs.end <= output, "outputs {outputs:?} of a matrix {:?}", matrix.shape());
    assert!(rows.iter().all(|row| *row < inputs.rows), "rows {rows:?} of {}", inputs.rows);
    inputs.assert_prepared(instructions, matrix);
    let mut sums = [[0.0; OUTPUTS]; ROWS];
    for start in outputs.clone().step_by(OUTPUTS) {
        let block = Block { inputs, weight: matrix.weight(), outputs: start..outputs.end.min(start + OUTPUTS) };
        let mut done = 0;
        while done < rows.len() {
            let taken = block.sums(instructions, &rows[done..], &mut sums);
            for (row, sums) in sums[..taken].iter().enumerate() {
                block.outputs.clone().zip(sums).for_each(|(output, sum)| emit(done + row, output, *sum));
            }
            done += taken;
        }
    }
}

/// At most [`OUTPUTS`] outputs whose bounds [`multiply`] has checked. Its code is long, and does not depend on what is done with
/// the sums.
struct Block<'a> {
    inputs: &'a Activations,
    weight: &'a Weight<'a>,
    outputs: Range<usize>,
}

type Sums = [[f32; OUTPUTS]; ROWS];

impl Block<'_> {
    /// Computes the first rows; returns how many it took.
    fn sums(&self, instructions: Instructions, rows: &[usize], sums: &mut Sums) -> usize {
        match rows {
            [a, b, c, d, e, f, g, h, ..] => self.run(instructions, [*a, *b, *c, *d, *e, *f, *g, *h], sums),
            [a, b, c, d, ..] => self.run(instructions, [*a, *b, *c, *d], sums),
            [a, b, ..] => self.run(instructions, [*a, *b], sums),
            [a, ..] => self.run(instructions, [*a], sums),
            [] => 0,
        }
    }

    fn run<const R: usize>(&self, instructions: Instructions, rows: [usize; R], sums: &mut Sums) -> usize {
        match instructions {
            // SAFETY: the instructions were found, or there would be no `Found`.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) => unsafe { self.avx512(rows, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(_) => unsafe { self.avx2(rows, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(_) => unsafe { self.neon(rows, sums) },
            // SAFETY: needs nothing.
            Instructions::Scalar => unsafe { self.each::<Scalar, R>(rows, sums) },
        }
        R
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn avx512<const R: usize>(&self, rows: [usize; R], sums: &mut Sums) {
        // SAFETY: this function has the instructions.
        unsafe { self.each::<Avx512, R>(rows, sums) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const R: usize>(&self, rows: [usize; R], sums: &mut Sums) {
        // SAFETY: this function has the instructions.
        unsafe { self.each::<Avx2, R>(rows, sums) }
    }

    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon")]
    unsafe fn neon<const R: usize>(&self, rows: [usize; R], sums: &mut Sums) {
        // SAFETY: this function has the instructions.
        unsafe { self.each::<Neon, R>(rows, sums) }
    }

    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    unsafe fn each<V: Simd, const R: usize>(&self, rows: [usize; R], sums: &mut Sums) {
        let mut output = self.outputs.start;
        // Several outputs at once share the loads of activations: as many as leave registers for the sums.
        if R == 1 {
            while output + 4 <= self.outputs.end {
                // SAFETY: passed on.
                unsafe { self.group::<V, R, 4>(rows, output, sums) };
                output += 4;
            }
        }
        if R <= 2 {
            while output + 2 <= self.outputs.end {
                // SAFETY: passed on.
                unsafe { self.group::<V, R, 2>(rows, output, sums) };
                output += 2;
            }
        }
        while output < self.outputs.end {
            // SAFETY: passed on.
            unsafe { self.group::<V, R, 1>(rows, output, sums) };
            output += 1;
        }
    }

    /// Computes `O` outputs, from `output` on.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    unsafe fn group<V: Simd, const R: usize, const O: usize>(&self, rows: [usize; R], output: usize, out: &mut Sums) {
        let Self { inputs, weight, outputs } = self;
        // SAFETY: the caller has the instructions; packed weights come from a `Matrix`, which has checked their lengths.
        let (mut sums, done) = unsafe {
            match weight {
                Weight::F32(values) => dot_f32::<V, R, O>(values, output, inputs, rows),
                Weight::Bf16(values) => dot_bf16::<V, R, O>(values, output, inputs, rows),
                Weight::Packed(packed) => match packed.bits {
                    4 => dot_packed::<V, 4, R, O>(packed, output, inputs, rows),
                    _ => dot_packed::<V, 8, R, O>(packed, output, inputs, rows),
                },
            }
        };
        for at in 0..O {
            if done < inputs.input {
                add_rest(weight, output + at, inputs, rows, done, &mut sums[at]);
            }
            for row in 0..R {
                out[row][output - outputs.start + at] = sums[at][row];
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::gemm::linear::{gemv_batch, gemv_batch_on};
    use crate::gemm::shape::Precision;
    use crate::gemm::weight_tests::Sample;
    use crate::simd::Processor;
    use crate::simd::tests::{cases, up_to};
    use crate::simd::{narrow, widen};
    use proptest::prelude::*;

    pub(crate) fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    /// Largest error against a GEMM in f64, relative to the largest output.
    fn error(instructions: Instructions, weight: Weight, rows: usize, input: usize, output: usize) -> f64 {
        let x = numbers(rows * input, 1);
        let mut inputs = Activations::default();
        inputs.set(&x, input);
        let matrix = Matrix::new(weight, [output, input]);
        inputs.prepare(instructions, &matrix);
        let mut y = vec![0.0; rows * output];
        let all: Vec<usize> = (0..rows).collect();
        multiply(instructions, &inputs, &all, &matrix, 0..output, |row, at, sum| y[row * output + at] = sum);
        let (mut worst, mut largest) = (0.0_f64, 1e-9_f64);
        let mut w = vec![0.0; input];
        for out in 0..output {
            weight.read(out, input, 0, &mut w);
            for row in 0..rows {
                let x = &x[row * input..][..input];
                let expected: f64 = x.iter().zip(&w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let size: f64 = x.iter().zip(&w).map(|(x, w)| (f64::from(*x) * f64::from(*w)).abs()).sum();
                largest = largest.max(size);
                worst = worst.max((expected - f64::from(y[row * output + out])).abs());
            }
        }
        worst / largest
    }

    proptest! {
        #![proptest_config(cases(256))]
        #[test]
        fn packed_weights_of_any_shape_are_right(
            rows in 1..8usize, input in 1..400usize, output in 1..6usize, bits in prop::sample::select(vec![4, 8]),
            group in prop::sample::select(vec![8, 16, 32, 48, 64, 128, 1000]), zeros: bool, halved: bool,
        ) {
            let sample = Sample::new(bits, group, [output, input], zeros, halved);
            for Processor { instructions, .. } in Processor::all() {
                let error = error(instructions, sample.weight(), rows, input, output);
                prop_assert!(error < 3e-5, "{instructions:?}: {error}");
            }
        }

        #[test]
        fn plain_weights_of_any_shape_are_right(rows in 1..8usize, input in 1..200usize, output in 1..6usize) {
            let wide = numbers(output * input, 5);
            let half: Vec<u16> = wide.iter().map(|w| narrow(*w)).collect();
            for Processor { instructions, .. } in Processor::all() {
                for weight in [Weight::F32(&wide), Weight::Bf16(&half)] {
                    let error = error(instructions, weight, rows, input, output);
                    prop_assert!(error < 1e-6, "{instructions:?}: {error}");
                }
            }
        }
    }

    #[test]
    fn inputs_are_laid_anew_for_other_instructions() {
        let sample = Sample::new(4, 32, [2, 128], true, true);
        let matrix = Matrix::new(sample.weight(), [2, 128]);
        let mut inputs = Activations::default();
        inputs.set(&numbers(128, 1), 128);
        let outputs: Vec<[f32; 2]> = Processor::all()
            .map(|Processor { instructions, .. }| {
                inputs.prepare(instructions, &matrix);
                let mut y = [0.0; 2];
                multiply(instructions, &inputs, &[0], &matrix, 0..2, |_, at, sum| y[at] = sum);
                y
            })
            .collect();
        assert!(
            outputs.iter().flatten().zip(outputs[0].iter().cycle()).all(|(a, b)| (a - b).abs() < 1e-3),
            "{outputs:?}"
        );
    }

    #[test]
    #[should_panic(expected = "prepared for the weight")]
    fn inputs_that_are_not_prepared_are_a_bug() {
        let mut inputs = Activations::default();
        inputs.set(&[0.0; 64], 64);
        let matrix = Matrix::new(Weight::Bf16(&[0; 64]), [1, 64]);
        multiply(Instructions::Scalar, &inputs, &[0], &matrix, 0..1, |_, _, _| {});
    }

    #[test]
    #[should_panic(expected = "outputs 0..3 of a matrix [2, 64]")]
    fn outputs_that_are_not_there_are_a_bug() {
        let mut inputs = Activations::default();
        inputs.set(&[0.0; 64], 64);
        let matrix = Matrix::new(Weight::F32(&[0.0; 128]), [2, 64]);
        multiply(Instructions::Scalar, &inputs, &[0], &matrix, 0..3, |_, _, _| {});
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn more_rows_than_memory_has_are_a_bug() {
        Activations::default().fill(usize::MAX / 2 + 1, 2);
    }

    #[test]
    fn several_products_share_their_inputs() {
        Processor::all().for_each(|processor| several_products(processor, 3));
        Processor::all().for_each(|processor| several_products(processor, SKINNY_MAX_ROWS + 2));
    }

    fn several_products(processor: Processor, rows: usize) {
        let many = up_to(500);
        let (x, a, b) = (numbers(rows * 300, 1), numbers(many * 300, 2), numbers(7 * 300, 3));
        let half: Vec<u16> = b.iter().map(|w| narrow(*w)).collect();
        let bias = numbers(7, 4);
        let (mut ya, mut yb) = (vec![0.0; rows * many], vec![0.0; rows * 7]);
        let mut inputs = Activations::default();
        inputs.set(&x, 300);
        gemv_batch_on(
            processor,
            &mut inputs,
            Precision::F32,
            &mut [
                GemvOp { weight: Weight::F32(&a), output: many, bias: None, y: &mut ya },
                GemvOp { weight: Weight::Bf16(&half), output: 7, bias: Some(&bias), y: &mut yb },
            ],
        );
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
        for row in 0..rows {
            let x = &x[row * 300..][..300];
            assert!((dot(x, &a[(many - 1) * 300..]) - ya[(row + 1) * many - 1]).abs() < 1e-3);
            let w: Vec<f32> = half[6 * 300..].iter().map(|w| widen(*w)).collect();
            assert!((dot(x, &w) + bias[6] - yb[row * 7 + 6]).abs() < 1e-3);
        }
    }

    #[test]
    fn an_input_that_is_no_number_is_not_hidden() {
        let sample = Sample::new(4, 32, [2, 128], false, true);
        let mut inputs = Activations::default();
        let mut x = numbers(128, 1);
        x[5] = f32::INFINITY;
        inputs.set(&x, 128);
        let mut y = [0.0; 2];
        gemv_batch(
            &mut inputs,
            Precision::F32,
            &mut [GemvOp { weight: sample.weight(), output: 2, bias: None, y: &mut y }],
        );
        assert!(y.iter().all(|y| y.is_nan()));
    }
}
