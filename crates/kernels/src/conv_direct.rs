//! Convolutions in single precision, on every processor: along time by direct sums, over pictures as products of gathered windows.

use rayon::prelude::*;

use crate::conv::HalfConv;
use crate::conv_time::{ConvShape, ConvStream};
use crate::conv2d::{HalfConv2d, Planes};
use crate::elementwise::Snake;
use crate::level::Processor;
use crate::linear::{Affine, LinearShape, Precision, Then};
use crate::weight::Weight;

/// Rows of weights and columns of the output whose sums stay in registers.
const ROWS: usize = 4;
const COLUMNS: usize = 32;

/// A convolution along time, causal or multiplying time by its stride, in the precision that was asked for.
#[derive(Debug, Clone)]
pub enum Conv1d {
    /// Both sides rounded to bf16.
    Half(HalfConv),
    /// In single precision.
    Full(DirectConv),
}

impl Conv1d {
    /// A causal convolution with a weight `[output, input, kernel]`. Half precision where the processor has the instructions.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn causal(weight: &[f32], bias: &[f32], shape: [usize; 3], dilation: usize, precision: Precision) -> Self {
        let half = (precision == Precision::Half).then(|| HalfConv::causal(weight, bias, shape, dilation)).flatten();
        half.map_or_else(
            || Conv1d::Full(DirectConv::new(weight, bias, ConvShape::causal(weight, bias, shape, dilation))),
            Conv1d::Half,
        )
    }

    /// A transposed convolution with a weight `[input, output, kernel]`, whose kernel is its stride or twice that. With twice
    /// the stride an output needs the input before it too; the outputs before the first input are cut. Half precision where the
    /// processor has the instructions.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn transposed(weight: &[f32], bias: &[f32], shape: [usize; 3], stride: usize, precision: Precision) -> Self {
        let half = (precision == Precision::Half).then(|| HalfConv::transposed(weight, bias, shape, stride)).flatten();
        half.map_or_else(
            || Conv1d::Full(DirectConv::new(weight, bias, ConvShape::transposed(weight, bias, shape, stride))),
            Conv1d::Half,
        )
    }

    /// Channels `[input, output]`.
    pub fn channels(&self) -> [usize; 2] {
        match self {
            Conv1d::Half(conv) => conv.channels(),
            Conv1d::Full(conv) => [conv.shape.input, conv.shape.output],
        }
    }

    /// The outputs `[output, sum of lengths]` of new inputs `[input, sum of times]`, whose activation is convolved; returns how many
    /// each stream got.
    ///
    /// Streams lie beside each other in each channel, in their order, and each gets the very numbers it gets alone; weights are read
    /// once for all of them. A stream's outputs are `time * stride`, but before its first input there are zeros where time is not
    /// multiplied, and where it is, the outputs before the first input are left out. With `add` the outputs are added to what is in
    /// `y`, otherwise `y` gets their size.
    ///
    /// # Panics
    /// If the lengths do not agree, or a history holds more than is past.
    pub fn run(
        &self,
        streams: &mut [ConvStream],
        x: &[f32],
        activation: Option<Snake>,
        add: bool,
        y: &mut Vec<f32>,
    ) -> Vec<usize> {
        match self {
            Conv1d::Half(conv) => conv.run(streams, x, activation, add, y),
            Conv1d::Full(conv) => conv.run(streams, x, activation, add, y),
        }
    }
}

/// A convolution along time in single precision.
#[derive(Debug, Clone)]
pub struct DirectConv {
    /// `[rows / 4, input, taps, 4]`; a transposed convolution has one row per output and place within the stride.
    weight: Vec<f32>,
    bias: Vec<f32>,
    shape: ConvShape,
}

impl DirectConv {
    fn new(weight: &[f32], bias: &[f32], shape: ConvShape) -> Self {
        Self { weight: laid(weight, shape), bias: bias.to_vec(), shape }
    }

    fn run(
        &self,
        streams: &mut [ConvStream],
        x: &[f32],
        activation: Option<Snake>,
        add: bool,
        y: &mut Vec<f32>,
    ) -> Vec<usize> {
        let inputs = self.shape.begin(streams, x, activation);
        let past = self.shape.past();
        let steps: Vec<usize> = inputs.iter().map(|inputs| inputs.saturating_sub(past)).collect();
        let lengths = self.shape.size_outputs(&steps, add, y);
        let starts = inputs.iter().scan(0, |end, inputs| {
            *end += inputs;
            Some(*end - inputs)
        });
        let (starts, columns) = (starts.collect::<Vec<_>>(), inputs.iter().sum::<usize>());
        let blocks = starts.iter().zip(&steps).flat_map(|(start, steps)| {
            (0..*steps).step_by(COLUMNS).map(move |at| [start + at, COLUMNS.min(steps - at)])
        });
        let (blocks, total) = (blocks.collect::<Vec<_>>(), steps.iter().sum());
        // A block may begin at the last column.
        let width = columns + COLUMNS;
        let gathered = self.gathered(streams, x, activation, &starts, [columns, width]);
        self.multiply(&gathered, width, &blocks, total, add, y);
        self.shape.keep(streams, x);
        lengths
    }

    /// All streams' inputs `[input, width]`, each behind its history, the columns that hold some activated.
    fn gathered(
        &self,
        streams: &[ConvStream],
        x: &[f32],
        activation: Option<Snake>,
        starts: &[usize],
        [columns, width]: [usize; 2],
    ) -> Vec<f32> {
        let mut gathered = vec![0.0; self.shape.input * width];
        let arch = Processor::best().arch;
        gathered.par_chunks_exact_mut(width).enumerate().for_each(|(channel, row)| {
            self.shape.gather(channel, streams, x, starts, row);
            if let Some(activation) = activation {
                activation.channel(arch, channel, &mut row[..columns]);
            }
        });
        gathered
    }

    /// Multiplies the blocks of columns, `steps` columns in all.
    fn multiply(&self, x: &[f32], width: usize, blocks: &[[usize; 2]], steps: usize, add: bool, y: &mut [f32]) {
        let ConvShape { input, taps, stride, .. } = self.shape;
        let arch = Processor::best().arch;
        // Rows of one channel, or the channels of one group of rows, are one task's.
        let sums: Vec<Vec<f32>> = self
            .weight
            .par_chunks_exact(input * taps * ROWS)
            .map(|weight| {
                let mut sums = vec![0.0; ROWS * steps];
                let mut at = 0;
                for [start, count] in blocks {
                    let block = arch.dispatch(|| self.block(x, width, weight, *start));
                    for (sums, block) in sums.chunks_exact_mut(steps).zip(&block) {
                        sums[at..at + count].copy_from_slice(&block[..*count]);
                    }
                    at += count;
                }
                sums
            })
            .collect();
        let row_of = |row: usize| &sums[row / ROWS][row % ROWS * steps..][..steps];
        y.par_chunks_exact_mut((steps * stride).max(1)).enumerate().for_each(|(channel, y)| {
            let bias = self.bias[channel];
            for place in 0..stride {
                let row = row_of(channel * stride + place);
                for (y, sum) in y[place..].iter_mut().step_by(stride).zip(row) {
                    *y = if add { *y + sum + bias } else { sum + bias };
                }
            }
        });
    }

    /// The sums of four rows of weights at some columns from `start` on.
    #[inline(always)]
    fn block(&self, x: &[f32], width: usize, weight: &[f32], start: usize) -> [[f32; COLUMNS]; ROWS] {
        let mut sums = [[0.0; COLUMNS]; ROWS];
        let mut weight = weight.as_chunks::<ROWS>().0.iter();
        for row in x.chunks_exact(width) {
            for tap in 0..self.shape.taps {
                let at = start + tap * self.shape.dilation;
                let (Some(x), Some(weight)) = (row.get(at..).and_then(<[f32]>::first_chunk::<COLUMNS>), weight.next())
                else {
                    continue;
                };
                for r in 0..ROWS {
                    for c in 0..COLUMNS {
                        sums[r][c] += weight[r] * x[c];
                    }
                }
            }
        }
        sums
    }
}

/// `[rows / 4, input, taps, 4]`, rows beyond the last being zero.
fn laid(values: &[f32], shape: ConvShape) -> Vec<f32> {
    let ConvShape { input, taps, .. } = shape;
    let rows = shape.rows();
    let mut weight = Vec::with_capacity(rows.next_multiple_of(ROWS) * input * taps);
    for first in (0..rows).step_by(ROWS) {
        for (channel, tap) in (0..input).flat_map(|channel| (0..taps).map(move |tap| (channel, tap))) {
            let of_row = |row| if row < rows { shape.at(values, row, channel, tap) } else { 0.0 };
            weight.extend((first..first + ROWS).map(of_row));
        }
    }
    weight
}

/// Taps of the kernel over pictures.
const TAPS: usize = 9;
/// Windows that are gathered at once.
const WINDOWS: usize = 1024;

/// Three convolutions behind each other, each with a kernel of 3 × 3, stride 2, one row of zeros around, and exact GELU behind it.
#[derive(Debug, Clone)]
pub enum Conv2dStack {
    /// Both sides rounded to bf16.
    Half(Box<[HalfConv2d; 3]>),
    /// In single precision.
    Full(Box<[DirectConv2d; 3]>),
}

/// Weight `[output, input, 3, 3]`, bias `[output]`, and `[output, input]`.
pub type Conv2dWeights<'a> = (&'a [f32], &'a [f32], [usize; 2]);

impl Conv2dStack {
    /// Half precision where it was asked for and the processor has the instructions.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn new(layers: [Conv2dWeights; 3], precision: Precision) -> Self {
        if precision == Precision::Half {
            let half = layers.map(|(weight, bias, shape)| HalfConv2d::new(weight, bias, shape));
            if let [Some(a), Some(b), Some(c)] = half {
                return Conv2dStack::Half(Box::new([a, b, c]));
            }
        }
        Conv2dStack::Full(Box::new(layers.map(|(weight, bias, shape)| DirectConv2d::new(weight, bias, shape))))
    }

    /// Channels of the last convolution.
    pub fn output(&self) -> usize {
        match self {
            Conv2dStack::Half(layers) => layers[2].channels()[1],
            Conv2dStack::Full(layers) => layers[2].output,
        }
    }

    /// Pictures of one channel and one size to rows `[pictures, columns, channels, rows of pixels]` of the last convolution, into `y`.
    /// `pixel` is asked for picture, row and column.
    pub fn columns(
        &self,
        (pictures, size): (usize, [usize; 2]),
        pixel: impl Fn(usize, usize, usize) -> f32,
        y: &mut Vec<f32>,
    ) {
        match self {
            Conv2dStack::Half(layers) => {
                let [conv1, conv2, conv3] = &**layers;
                let [mut first, mut second, mut third] = std::array::from_fn(|_| Planes::default());
                first.shape(pictures, 1, size);
                (0..pictures).for_each(|picture| first.set(picture, |row, column| pixel(picture, row, column)));
                conv1.pictures(&mut first, &mut second);
                conv2.pictures(&mut second, &mut third);
                conv3.columns(&mut third, y);
            }
            Conv2dStack::Full(layers) => {
                let [height, width] = size;
                let at = |(picture, place): (usize, usize)| pixel(picture, place / width, place % width);
                let places = (0..pictures).flat_map(|picture| (0..height * width).map(move |place| (picture, place)));
                let mut x: Vec<f32> = places.map(at).collect();
                let mut size = size;
                for layer in layers.iter() {
                    (x, size) = layer.run(&x, pictures, size);
                }
                let ([height, width], channels) = (size, layers[2].output);
                y.resize(x.len(), 0.0);
                let pixels = x.chunks_exact(channels).enumerate();
                pixels.for_each(|(at, values)| {
                    let (picture, row, column) = (at / (height * width), at / width % height, at % width);
                    let start = (picture * width + column) * channels * height + row;
                    values.iter().enumerate().for_each(|(channel, value)| y[start + channel * height] = *value);
                });
            }
        }
    }
}

/// A convolution with a kernel of 3 × 3, stride 2 and one row of zeros around, and exact GELU behind it, in single precision.
#[derive(Debug, Clone)]
pub struct DirectConv2d {
    /// `[output, 3, 3, input]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
    input: usize,
    output: usize,
}

impl DirectConv2d {
    fn new(weight: &[f32], bias: &[f32], [output, input]: [usize; 2]) -> Self {
        assert!(weight.len() == output * input * TAPS && bias.len() == output, "weight [output, input, 3, 3], bias");
        let channels = |row: usize, tap: usize| (0..input).map(move |c| weight[(row * input + c) * TAPS + tap]);
        let weight = (0..output).flat_map(|row| (0..TAPS).flat_map(move |tap| channels(row, tap))).collect();
        Self { weight, bias: bias.to_vec(), input, output }
    }

    /// `[pictures, height, width, input]` → `[pictures, height / 2, width / 2, output]`, halves rounded up.
    fn run(&self, x: &[f32], pictures: usize, [height, width]: [usize; 2]) -> (Vec<f32>, [usize; 2]) {
        let out = [height.div_ceil(2), width.div_ceil(2)];
        let pixels = pictures * out[0] * out[1];
        let (depth, mut y) = (TAPS * self.input, vec![0.0; pixels * self.output]);
        let mut windows = Vec::new();
        for (block, y) in y.chunks_mut(WINDOWS * self.output).enumerate() {
            let rows = y.len() / self.output;
            windows.clear();
            windows.resize(rows * depth, 0.0);
            windows.par_chunks_exact_mut(depth).enumerate().for_each(|(row, window)| {
                let at = block * WINDOWS + row;
                let (picture, row, column) = (at / (out[0] * out[1]), at / out[1] % out[0], at % out[1]);
                for (tap, values) in window.chunks_exact_mut(self.input).enumerate() {
                    // Of the padded picture: the first row and column are zeros.
                    let (row, column) = (2 * row + tap / 3, 2 * column + tap % 3);
                    if (1..=height).contains(&row) && (1..=width).contains(&column) {
                        let pixel = (picture * height + row - 1) * width + column - 1;
                        values.copy_from_slice(&x[pixel * self.input..][..self.input]);
                    }
                }
            });
            let shape = LinearShape { rows, input: depth, output: self.output };
            let (weight, bias) = (Weight::F32(&self.weight), Some(&self.bias[..]));
            Affine { weight, bias, shape, precision: Precision::Full, then: Then::Gelu }.apply(&windows, y);
        }
        (y, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::few::tests::numbers;
    use proptest::prelude::*;

    /// Causal convolution in f64 of `[input, time]`.
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
            let conv = Conv1d::causal(&weight, &bias, [output, input, kernel], dilation, Precision::Full);
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
            let (full, half) = (run(Precision::Full), run(Precision::Half));
            prop_assert_eq!((&full.0, &full.2), (&half.0, &half.2));
            for (a, b) in full.1.iter().zip(&half.1) {
                // Two values within 2 and their weights, each rounded to 8 bits, for each input.
                prop_assert!((a - b).abs() < 0.04 * 2.0 * input as f32, "{} {}", a, b);
            }
        }

        #[test]
        fn both_precisions_convolve_pictures_alike(pictures in 1..3usize, height in 1..20usize, width in 1..20usize) {
            let (channels, x) = (3, numbers(pictures * height * width, 1));
            let weights: Vec<[Vec<f32>; 2]> = [1, channels, channels]
                .map(|input| {
                    let scale = |values: Vec<f32>| values.iter().map(|x| x / 6.0).collect();
                    [scale(numbers(channels * input * TAPS, input)), scale(numbers(channels, 7))]
                })
                .into();
            let run = |precision| {
                let layer = |i: usize| {
                    let [weight, bias] = &weights[i];
                    (weight.as_slice(), bias.as_slice(), [channels, if i == 0 { 1 } else { channels }])
                };
                let stack = Conv2dStack::new([layer(0), layer(1), layer(2)], precision);
                let mut y = Vec::new();
                let pixel = |picture: usize, row: usize, column: usize| x[(picture * height + row) * width + column];
                stack.columns((pictures, [height, width]), pixel, &mut y);
                y
            };
            let (full, half) = (run(Precision::Full), run(Precision::Half));
            prop_assert_eq!(full.len(), half.len());
            for (a, b) in full.iter().zip(&half) {
                prop_assert!((a - b).abs() < 0.1, "{} {}", a, b);
            }
        }
    }
}
