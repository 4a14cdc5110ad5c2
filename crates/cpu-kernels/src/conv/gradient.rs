//! Gradients of a convolution along time, for training in f32.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::direct::DirectConv;
use super::stream::{ConvShape, ConvStream};
use crate::activation::Snake;
use crate::buffer::size;
use crate::norm::sum;
use crate::simd::Processor;

/// Rows and columns of the gradient of a weight whose sums stay in registers.
const ROWS: usize = 4;
const COLUMNS: usize = 4;
/// Steps taken at a time, so that the inputs of a tile stay in the first cache.
const STEPS: usize = 1024;

/// A convolution along time in f32 over whole streams, with its gradients, for training.
///
/// It computes what [`super::Conv1d`] does for new streams.
#[derive(Debug, Clone, Copy)]
pub struct TrainedConv1d<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    shape: ConvShape,
}

/// Gradients with respect to all that a convolution is computed from.
#[derive(Debug, Clone)]
pub struct Conv1dGradients {
    /// `[input, sum of times]`, of the input before its activation.
    pub x: Vec<f32>,
    /// As the weight.
    pub weight: Vec<f32>,
    /// `[output]`.
    pub bias: Vec<f32>,
    /// `[input]` each, of the activation's frequency and amplitude; empty without one.
    pub snake: [Vec<f32>; 2],
}

impl<'a> TrainedConv1d<'a> {
    /// A causal convolution with a weight `[output, input, kernel]`.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn causal(weight: &'a [f32], bias: &'a [f32], shape: [usize; 3], dilation: usize) -> Self {
        Self { weight, bias, shape: ConvShape::causal(weight, bias, shape, dilation) }
    }

    /// A transposed convolution with a weight `[input, output, kernel]`, whose kernel is its stride or twice that; see
    /// [`super::Conv1d::transposed`].
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn transposed(weight: &'a [f32], bias: &'a [f32], shape: [usize; 3], stride: usize) -> Self {
        Self { weight, bias, shape: ConvShape::transposed(weight, bias, shape, stride) }
    }

    /// Convolves streams `[input, sum of times]`, activated first, into `[output, sum of lengths]`; returns each stream's length
    /// too.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn forward(&self, x: &[f32], snake: Option<Snake>, times: &[usize]) -> (Vec<f32>, Vec<usize>) {
        let mut histories = vec![Vec::new(); times.len()];
        let streams = histories.iter_mut().zip(times).map(|(history, time)| ConvStream { history, time: *time });
        let mut y = Vec::new();
        let conv = DirectConv::new(self.weight, self.bias, self.shape);
        let lengths = conv.run(&mut streams.collect::<Vec<_>>(), x, snake, false, &mut y);
        (y, lengths)
    }

    /// Computes all gradients from that of the output.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn backward(&self, x: &[f32], snake: Option<Snake>, times: &[usize], gradient: &[f32]) -> Conv1dGradients {
        let columns = Columns::new(self.shape, times);
        assert_eq!(x.len(), size([self.shape.input, times.iter().sum()]), "x [input, sum of times]");
        assert_eq!(gradient.len(), self.shape.output * columns.outputs, "gradient [output, sum of lengths]");
        let inputs = self.activated(x, snake, &columns);
        let rows = self.by_row(gradient, &columns);
        let through = self.through(&rows, &columns);
        let (x, snake) = self.before(x, snake, &through, &columns);
        let of_channel = |channel: usize| sum(&gradient[channel * columns.outputs..][..columns.outputs], |x| x);
        let bias = (0..self.shape.output).into_par_iter().map(of_channel).collect();
        Conv1dGradients { x, weight: self.weight_gradient(&rows, &inputs, &columns), bias, snake }
    }

    /// The activated inputs `[input, past + columns]`, with zeros behind the last column.
    fn activated(&self, x: &[f32], snake: Option<Snake>, columns: &Columns) -> Vec<f32> {
        let mut inputs = vec![0.0; self.shape.input * columns.width()];
        let total = columns.inputs();
        let arch = Processor::best().arch;
        inputs.par_chunks_exact_mut(columns.width()).zip(x.par_chunks_exact(total.max(1))).enumerate().for_each(
            |(channel, (row, x))| {
                for stream in &columns.streams {
                    let row = &mut row[stream.start + columns.zeros..][..stream.time];
                    row.copy_from_slice(&x[stream.input..][..stream.time]);
                    if let Some(snake) = snake {
                        snake.channel(arch, channel, row);
                    }
                }
            },
        );
        inputs
    }

    /// The gradient of the output, `[rows, columns]`: each step stands in the column of the first input that it sees; all other columns
    /// are zero.
    fn by_row(&self, gradient: &[f32], columns: &Columns) -> Vec<f32> {
        let stride = self.shape.stride;
        let mut rows = vec![0.0; self.shape.rows() * columns.count];
        rows.par_chunks_exact_mut(columns.count.max(1)).enumerate().for_each(|(row, values)| {
            let (output, place) = (row / stride, row % stride);
            let gradient = &gradient[output * columns.outputs..][..columns.outputs];
            for stream in &columns.streams {
                let of_stream = gradient[stream.output..][..stream.steps * stride].iter().skip(place).step_by(stride);
                let values = &mut values[stream.start..][..stream.steps];
                values.iter_mut().zip(of_stream).for_each(|(y, x)| *y = *x);
            }
        });
        rows
    }

    /// The gradient of the activated inputs `[input, columns]`: a causal convolution with the weights' taps in reverse order.
    fn through(&self, rows: &[f32], columns: &Columns) -> Vec<f32> {
        let ConvShape { input, taps, dilation, .. } = self.shape;
        let count = self.shape.rows();
        let weight = (0..input).flat_map(|channel| {
            (0..count)
                .flat_map(move |row| (0..taps).map(move |tap| self.shape.at(self.weight, row, channel, taps - 1 - tap)))
        });
        let weight: Vec<f32> = weight.collect();
        TrainedConv1d::causal(&weight, &vec![0.0; input], [input, count, taps], dilation)
            .forward(rows, None, &[columns.count])
            .0
    }

    /// The gradients of the inputs before their activation and of the activation itself.
    fn before(&self, x: &[f32], snake: Option<Snake>, through: &[f32], columns: &Columns) -> (Vec<f32>, [Vec<f32>; 2]) {
        let total = columns.inputs();
        let mut gradient = vec![0.0; x.len()];
        let arch = Processor::best().arch;
        let channels = gradient.par_chunks_exact_mut(total.max(1)).zip(x.par_chunks_exact(total.max(1))).enumerate();
        let of_snake = channels.map(|(channel, (gradient, x))| {
            let through = &through[channel * columns.count..][..columns.count];
            for stream in &columns.streams {
                let of_stream = &through[stream.start + columns.zeros..][..stream.time];
                gradient[stream.input..][..stream.time].copy_from_slice(of_stream);
            }
            snake.map(|snake| snake.channel_backward(arch, channel, x, gradient))
        });
        let of_snake: Vec<Option<[f32; 2]>> = of_snake.collect();
        let of_snake = [0, 1].map(|index| of_snake.iter().flatten().map(|both| both[index]).collect());
        (gradient, of_snake)
    }

    /// The gradient of the weight: for each row, channel and tap the sum over all steps.
    fn weight_gradient(&self, rows: &[f32], inputs: &[f32], columns: &Columns) -> Vec<f32> {
        let ConvShape { input, taps, dilation, .. } = self.shape;
        let (count, width) = (self.shape.rows(), columns.width());
        let arch = Processor::best().arch;
        let sums: Vec<Vec<f32>> = (0..count.div_ceil(ROWS))
            .into_par_iter()
            .map(|block| {
                let of_row = |row: usize| &rows[row.min(count - 1) * columns.count..][..columns.count];
                let rows: [&[f32]; ROWS] = std::array::from_fn(|row| of_row(block * ROWS + row));
                let column = |index: usize| {
                    let (channel, tap) = (index / taps, index % taps);
                    &inputs[channel * width + tap * dilation..][..columns.count]
                };
                arch.dispatch(Products { rows, column, count: input * taps })
            })
            .collect();
        let mut gradient = vec![0.0; self.weight.len()];
        for row in 0..count {
            for (index, sum) in sums[row / ROWS].iter().skip(row % ROWS).step_by(ROWS).enumerate() {
                gradient[self.shape.place(row, index / taps, index % taps)] = *sum;
            }
        }
        gradient
    }
}

/// Layout of all streams' inputs side by side, each after its leading zeros.
#[derive(Debug)]
struct Columns {
    streams: Vec<StreamColumns>,
    /// Zeros before each stream.
    zeros: usize,
    past: usize,
    count: usize,
    /// Outputs of all streams in one channel.
    outputs: usize,
}

#[derive(Debug)]
struct StreamColumns {
    /// Its first column.
    start: usize,
    /// Its first input and output in a channel of all streams.
    input: usize,
    output: usize,
    time: usize,
    /// Number of output steps.
    steps: usize,
}

impl Columns {
    fn new(shape: ConvShape, times: &[usize]) -> Self {
        let (past, zeros) = (shape.past(), shape.zeros());
        let mut columns = Self { streams: Vec::new(), zeros, past, count: 0, outputs: 0 };
        let mut input = 0;
        for time in times {
            let steps = (zeros + time).saturating_sub(past);
            let (start, output) = (columns.count, columns.outputs);
            columns.streams.push(StreamColumns { start, input, output, time: *time, steps });
            columns.count += zeros + time;
            columns.outputs += steps * shape.stride;
            input += time;
        }
        columns
    }

    /// Columns with zeros behind the last one, as many as a tap may look ahead.
    fn width(&self) -> usize {
        self.past + self.count.max(1)
    }

    /// Inputs of all streams in one channel.
    fn inputs(&self) -> usize {
        self.streams.iter().map(|stream| stream.time).sum()
    }
}

/// Sums of the products of four rows with each of `count` columns, `[count, 4]`.
struct Products<'a, F> {
    rows: [&'a [f32]; ROWS],
    column: F,
    count: usize,
}

impl<'a, F: Fn(usize) -> &'a [f32]> WithSimd for Products<'a, F> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { rows, column, count } = self;
        let mut sums = vec![0.0; count.next_multiple_of(COLUMNS) * ROWS];
        let length = rows[0].len();
        for start in (0..length).step_by(STEPS) {
            let range = start..length.min(start + STEPS);
            let rows = rows.map(|row| &row[range.clone()]);
            for (block, sums) in sums.chunks_exact_mut(ROWS * COLUMNS).enumerate() {
                let columns = [0, 1, 2, 3].map(|at| &column((block * COLUMNS + at).min(count - 1))[range.clone()]);
                for (sum, more) in sums.iter_mut().zip(tile(simd, rows, columns)) {
                    *sum += more;
                }
            }
        }
        sums.truncate(count * ROWS);
        sums
    }
}

/// Sums of the products of each row with each column, `[columns, rows]`.
#[inline(always)]
fn tile<S: Simd>(simd: S, rows: [&[f32]; ROWS], columns: [&[f32]; COLUMNS]) -> [f32; ROWS * COLUMNS] {
    let mut sums = [[simd.splat_f32s(0.0); ROWS]; COLUMNS];
    let (rows, columns) = (rows.map(S::as_simd_f32s), columns.map(S::as_simd_f32s));
    // Without a check of bounds, which would keep the sums in memory.
    let [a, b, c, d] = rows.map(|(whole, _)| whole.iter());
    let [e, f, g, h] = columns.map(|(whole, _)| whole.iter());
    for (((a, b), (c, d)), ((e, f), (g, h))) in a.zip(b).zip(c.zip(d)).zip(e.zip(f).zip(g.zip(h))) {
        let (rows, columns) = ([*a, *b, *c, *d], [*e, *f, *g, *h]);
        for column in 0..COLUMNS {
            for row in 0..ROWS {
                sums[column][row] = simd.mul_add_e_f32s(rows[row], columns[column], sums[column][row]);
            }
        }
    }
    let mut totals = [0.0; ROWS * COLUMNS];
    for column in 0..COLUMNS {
        for row in 0..ROWS {
            let rest = rows[row].1.iter().zip(columns[column].1).map(|(x, y)| x * y);
            totals[column * ROWS + row] = simd.reduce_sum_f32s(sums[column][row]) + rest.sum::<f32>();
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;
    use proptest::prelude::*;

    /// The change of `Σ y · g` for a small change of one value, in both directions.
    fn slope(value: f32, sum: impl Fn(f32) -> f64) -> f64 {
        let step = 1e-2;
        (sum(value + step) - sum(value - step)) / f64::from(2.0 * step)
    }

    fn check(
        make: for<'a> fn(&'a [f32], &'a [f32], [usize; 3], usize) -> TrainedConv1d<'a>,
        sizes: [usize; 3],
        [input, output]: [usize; 2],
        step: usize,
        times: &[usize],
    ) -> Result<(), TestCaseError> {
        let (total, weight) = (times.iter().sum::<usize>(), numbers(sizes.iter().product(), 1));
        let (bias, x) = (numbers(output, 2), numbers(input * total, 3));
        let snake = [numbers(input, 4).iter().map(|x| 1.0 + x / 4.0).collect::<Vec<_>>(), numbers(input, 5)];
        let y = |x: &[f32], weight: &[f32], bias: &[f32], snake: &[Vec<f32>; 2]| {
            let snake = Snake { frequency: &snake[0], amplitude: &snake[1] };
            make(weight, bias, sizes, step).forward(x, Some(snake), times).0
        };
        let g = numbers(y(&x, &weight, &bias, &snake).len(), 6);
        let sum = |y: Vec<f32>| y.iter().zip(&g).map(|(y, g)| f64::from(y * g)).sum::<f64>();
        let used = Snake { frequency: &snake[0], amplitude: &snake[1] };
        let found = make(&weight, &bias, sizes, step).backward(&x, Some(used), times, &g);
        let with = |values: &[f32], at: usize, value: f32| {
            let mut values = values.to_vec();
            values[at] = value;
            values
        };
        let mut pairs = Vec::new();
        for at in 0..x.len() {
            pairs.push((found.x[at], slope(x[at], |v| sum(y(&with(&x, at, v), &weight, &bias, &snake)))));
        }
        for at in 0..weight.len() {
            pairs.push((found.weight[at], slope(weight[at], |v| sum(y(&x, &with(&weight, at, v), &bias, &snake)))));
        }
        for at in 0..bias.len() {
            pairs.push((found.bias[at], slope(bias[at], |v| sum(y(&x, &weight, &with(&bias, at, v), &snake)))));
        }
        for (part, at) in (0..2).flat_map(|part| (0..input).map(move |at| (part, at))) {
            let changed = |v| {
                let mut changed = snake.clone();
                changed[part] = with(&snake[part], at, v);
                sum(y(&x, &weight, &bias, &changed))
            };
            pairs.push((found.snake[part][at], slope(snake[part][at], changed)));
        }
        let largest = pairs.iter().map(|(_, expected)| expected.abs()).fold(1.0, f64::max);
        for (found, expected) in pairs {
            let error = (f64::from(found) - expected).abs();
            prop_assert!(error < 5e-3 * largest, "{found} instead of {expected}");
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn gradients_of_a_causal_convolution_are_its_slopes(
            [output, input, kernel] in [1..6usize, 1..4, 1..4], dilation in 1..3usize, times in prop::collection::vec(1..30usize, 1..3),
        ) {
            check(|w, b, s, d| TrainedConv1d::causal(w, b, s, d), [output, input, kernel], [input, output], dilation, &times)?;
        }

        #[test]
        fn gradients_of_a_transposed_convolution_are_its_slopes(
            [output, input] in [1..5usize, 1..4], stride in 1..4usize, twice in any::<bool>(), times in prop::collection::vec(2..20usize, 1..3),
        ) {
            let kernel = if twice { 2 * stride } else { stride };
            check(|w, b, s, d| TrainedConv1d::transposed(w, b, s, d), [input, output, kernel], [input, output], stride, &times)?;
        }
    }

    #[test]
    fn long_streams_are_summed_whole() {
        // One weight whose gradient is the sum of all inputs.
        let x = vec![1.0; 3 * STEPS + 5];
        let found = TrainedConv1d::causal(&[2.0], &[0.0], [1, 1, 1], 1).backward(&x, None, &[x.len()], &x);
        assert_eq!(found.weight, [x.len() as f32]);
        assert_eq!(found.bias, [x.len() as f32]);
        assert!(found.snake.iter().all(Vec::is_empty) && found.x.iter().all(|x| *x == 2.0));
    }
}
