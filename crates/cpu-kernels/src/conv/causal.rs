//! Convolutions along time, causal or transposed, in either precision.

use super::bf16::Bf16Conv;
use super::direct::DirectConv;
use super::stream::{ConvShape, ConvStream};
use crate::activation::Snake;
use crate::gemm::Precision;

/// A convolution along time, causal or transposed, in the precision that was asked for.
#[derive(Debug, Clone)]
pub enum Conv1d {
    /// Both operands rounded to bf16.
    Bf16(Bf16Conv),
    /// In f32.
    F32(DirectConv),
}

impl Conv1d {
    /// Creates a causal convolution with a weight `[output, input, kernel]`. bf16 takes effect where the processor has
    /// instructions for it.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn causal(weight: &[f32], bias: &[f32], shape: [usize; 3], dilation: usize, precision: Precision) -> Self {
        let half = (precision == Precision::Bf16).then(|| Bf16Conv::causal(weight, bias, shape, dilation)).flatten();
        half.map_or_else(
            || Conv1d::F32(DirectConv::new(weight, bias, ConvShape::causal(weight, bias, shape, dilation))),
            Conv1d::Bf16,
        )
    }

    /// Creates a transposed convolution with a weight `[input, output, kernel]`, whose kernel is its stride or twice that. With
    /// twice the stride an output also needs the input before its own, and the outputs before the first input are cut. bf16 takes
    /// effect where the processor has instructions for it.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn transposed(weight: &[f32], bias: &[f32], shape: [usize; 3], stride: usize, precision: Precision) -> Self {
        let half = (precision == Precision::Bf16).then(|| Bf16Conv::transposed(weight, bias, shape, stride)).flatten();
        half.map_or_else(
            || Conv1d::F32(DirectConv::new(weight, bias, ConvShape::transposed(weight, bias, shape, stride))),
            Conv1d::Bf16,
        )
    }

    /// Channels `[input, output]`.
    pub fn channels(&self) -> [usize; 2] {
        match self {
            Conv1d::Bf16(conv) => conv.channels(),
            Conv1d::F32(conv) => [conv.shape.input, conv.shape.output],
        }
    }

    /// Convolves new inputs `[input, sum of times]`, activated first, into outputs `[output, sum of lengths]`; returns each
    /// stream's length.
    ///
    /// Streams are concatenated along time in each channel, in their order, and each gets the same result as alone; weights are
    /// read once for all of them. A stream gets `time * stride` outputs. A causal convolution sees zeros before a stream's first
    /// input; of a transposed one, the outputs before the first input are left out. With `add` the outputs are added to `y`,
    /// otherwise `y` is resized and overwritten.
    ///
    /// # Panics
    /// If the lengths do not agree, or a history is longer than the convolution needs.
    pub fn run(
        &self,
        streams: &mut [ConvStream],
        x: &[f32],
        activation: Option<Snake>,
        add: bool,
        y: &mut Vec<f32>,
    ) -> Vec<usize> {
        match self {
            Conv1d::Bf16(conv) => conv.run(streams, x, activation, add, y),
            Conv1d::F32(conv) => conv.run(streams, x, activation, add, y),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;
    use proptest::prelude::*;

    /// Causal convolution of `[input, time]` in f64.
    fn expected(
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        [output, input, kernel]: [usize; 3],
        dilation: usize,
    ) -> Vec<f64> {
        let time = x.len() / input;
        let sum = |out: usize, t: usize| {
            let taps = (0..input).flat_map(|c| (0..kernel).map(move |tap| (c, tap)));
            let terms = taps.filter_map(|(c, tap)| {
                let at = t.checked_sub((kernel - 1 - tap) * dilation)?;
                Some(f64::from(weight[(out * input + c) * kernel + tap]) * f64::from(x[c * time + at]))
            });
            f64::from(bias[out]) + terms.sum::<f64>()
        };
        (0..output).flat_map(|out| (0..time).map(move |t| (out, t))).map(|(out, t)| sum(out, t)).collect()
    }

    proptest! {
        #[test]
        fn a_causal_convolution_is_right_however_its_input_is_cut_and_whoever_is_beside_it(
            [output, input, kernel] in [1..9usize, 1..6, 1..8], dilation in 1..4usize, time in 1..90usize, cut in 0..90usize,
        ) {
            let weight = numbers(output * input * kernel, 1);
            let (bias, x, other) = (numbers(output, 2), numbers(input * time, 3), numbers(input * 7, 4));
            let conv = Conv1d::causal(&weight, &bias, [output, input, kernel], dilation, Precision::F32);
            let expected = expected(&x, &weight, &bias, [output, input, kernel], dilation);
            let (mut history, cut) = (Vec::new(), cut.min(time));
            let mut rows = vec![Vec::new(); output];
            for range in [0..cut, cut..time].into_iter().filter(|range| !range.is_empty()) {
                // Beside another stream, which comes first.
                let both: Vec<f32> = (0..input)
                    .flat_map(|c| [&other[c * 7..][..7], &x[c * time..][..time][range.clone()]].concat())
                    .collect();
                let (mut none, mut y) = (Vec::new(), Vec::new());
                let mut streams = [
                    ConvStream { history: &mut none, time: 7 },
                    ConvStream { history: &mut history, time: range.len() },
                ];
                prop_assert_eq!(conv.run(&mut streams, &both, None, false, &mut y), [7, range.len()]);
                let lines = y.chunks(7 + range.len());
                rows.iter_mut().zip(lines).for_each(|(row, y)| row.extend_from_slice(&y[7..]));
            }
            for (y, expected) in rows.concat().iter().zip(&expected) {
                prop_assert!((f64::from(*y) - expected).abs() < 1e-3, "{} {}", y, expected);
            }
        }

        #[test]
        fn both_precisions_multiply_time_alike(
            [input, output] in [1..6usize, 1..5], stride in 1..6usize, twice in any::<bool>(), time in 1..40usize,
        ) {
            let kernel = if twice { 2 * stride } else { stride };
            let (weight, bias) = (numbers(input * output * kernel, 1), numbers(output, 2));
            let x = numbers(input * time, 3);
            let run = |precision| {
                let conv = Conv1d::transposed(&weight, &bias, [input, output, kernel], stride, precision);
                let (mut history, mut y) = (Vec::new(), Vec::new());
                let lengths = conv.run(&mut [ConvStream { history: &mut history, time }], &x, None, false, &mut y);
                (lengths, y, history)
            };
            let (full, half) = (run(Precision::F32), run(Precision::Bf16));
            prop_assert_eq!((&full.0, &full.2), (&half.0, &half.2));
            for (a, b) in full.1.iter().zip(&half.1) {
                // For each input, two values within 2 and their weights, each rounded to 8 bits.
                prop_assert!((a - b).abs() < 0.04 * 2.0 * input as f32, "{} {}", a, b);
            }
        }
    }
}
