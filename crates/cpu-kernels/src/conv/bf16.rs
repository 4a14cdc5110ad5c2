//! Convolutions along time with bf16 operands, fused with the activation before them and the addition behind them.
//!
//! A convolution is the sum of one GEMM per tap, each over inputs shifted in time. Channels are rows `[time]`, one after the
//! other; two neighbouring channels make the pairs of the bf16 GEMM ([`join`]), so that a tap is a shift along the row and
//! nothing is copied for it.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports, unused_variables))] // Only x86-64 has code here.
#![allow(unsafe_code)] // Raw bf16 operands, and tasks that write disjoint rows of the same output.

use std::cell::RefCell;

use rayon::prelude::*;

use super::layout::{Layout, Part};
use super::stream::{ConvShape, ConvStream};
use crate::activation::Snake;
use crate::buffer::{DisjointCols, aligned, size};
use crate::gemm::join;
#[cfg(target_arch = "x86_64")]
use crate::gemm::{Block, PairColumns, SIDE, Shift, TILE, Tiles, WeightRows, block};
#[cfg(target_arch = "x86_64")]
use crate::simd::Bf16Instructions;
use crate::simd::narrow;
use crate::simd::{Processor, Vectorized};

/// Most columns of the output that one task computes.
const COLUMNS: usize = 1024;

/// A convolution with bf16 operands: causal with stride 1, or transposed, which multiplies time by its stride.
#[derive(Debug, Clone)]
pub struct Bf16Conv {
    /// Detected when this was made.
    instructions: Bf16Instructions,
    /// `[rows, taps, channels]` in bf16; rows and channels are padded to multiples of 32.
    weight: Vec<u16>,
    bias: Vec<f32>,
    shape: ConvShape,
}

#[cfg(not(target_arch = "x86_64"))]
type Bf16Instructions = std::convert::Infallible;

impl Bf16Conv {
    /// Creates a causal convolution with a weight `[output, input, kernel]`; `None` on a processor without the instructions.
    ///
    /// # Panics
    /// If the lengths do not agree, a size is zero, or the padded history fits no memory.
    pub fn causal(weight: &[f32], bias: &[f32], sizes: [usize; 3], dilation: usize) -> Option<Self> {
        Self::causal_on(Processor::best(), weight, bias, sizes, dilation)
    }

    fn causal_on(
        processor: Processor,
        weight: &[f32],
        bias: &[f32],
        sizes: [usize; 3],
        dilation: usize,
    ) -> Option<Self> {
        Self::new(processor, weight, bias, ConvShape::causal(weight, bias, sizes, dilation))
    }

    /// Creates a transposed convolution with a weight `[input, output, kernel]`, whose kernel is its stride or twice that; `None`
    /// on a processor without the instructions. With twice the stride an output also needs the input before its own, and the
    /// outputs before the first input are cut.
    ///
    /// # Panics
    /// If the lengths do not agree, or a size is zero.
    pub fn transposed(weight: &[f32], bias: &[f32], sizes: [usize; 3], stride: usize) -> Option<Self> {
        Self::transposed_on(Processor::best(), weight, bias, sizes, stride)
    }

    fn transposed_on(
        processor: Processor,
        weight: &[f32],
        bias: &[f32],
        sizes: [usize; 3],
        stride: usize,
    ) -> Option<Self> {
        Self::new(processor, weight, bias, ConvShape::transposed(weight, bias, sizes, stride))
    }

    fn new(processor: Processor, values: &[f32], bias: &[f32], shape: ConvShape) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        let instructions = processor.bf16?;
        #[cfg(not(target_arch = "x86_64"))]
        let instructions = None?;
        let ConvShape { input, taps, .. } = shape;
        let (rows, channels) = (shape.rows(), input.next_multiple_of(32));
        let mut weight = vec![0; size([rows.next_multiple_of(32), taps, channels])];
        for (row, weight) in weight.chunks_exact_mut(taps * channels).take(rows).enumerate() {
            for (tap, weight) in weight.chunks_exact_mut(channels).enumerate() {
                let of_channel = |channel| narrow(shape.at(values, row, channel, tap));
                weight[..input].iter_mut().enumerate().for_each(|(channel, w)| *w = of_channel(channel));
            }
        }
        Some(Self { instructions, weight, bias: bias.to_vec(), shape })
    }

    /// Inputs before its own that an output needs.
    pub fn past(&self) -> usize {
        self.shape.past()
    }

    /// Channels `[input, output]`.
    pub fn channels(&self) -> [usize; 2] {
        [self.shape.input, self.shape.output]
    }

    /// Convolves new inputs of several streams, each with the same result as alone; see [`crate::Conv1d::run`].
    pub fn run(
        &self,
        streams: &mut [ConvStream],
        x: &[f32],
        activation: Option<Snake>,
        add: bool,
        y: &mut Vec<f32>,
    ) -> Vec<usize> {
        let inputs = self.shape.begin(streams, x, activation);
        let layout = Layout::new(self.past(), inputs.into_iter());
        let lengths = self.shape.size_outputs(&layout.steps, add, y);
        #[cfg(target_arch = "x86_64")]
        {
            let mut memory = PAIRS.take();
            let pairs = self.pairs(streams, x, activation, &layout, &mut memory);
            self.multiply(pairs, &layout, add, y);
            PAIRS.set(memory);
        }
        self.shape.keep(streams, x);
        lengths
    }

    /// Packs the inputs, activated and rounded, as pairs of channels `[channels / 2, width]`.
    #[cfg(target_arch = "x86_64")]
    fn pairs<'a>(
        &self,
        streams: &[ConvStream],
        x: &[f32],
        activation: Option<Snake>,
        layout: &Layout,
        memory: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let arch = Processor::best().arch;
        let (channels, width) = (self.shape.input.next_multiple_of(32), layout.width);
        let pairs = aligned(memory, size([channels / 2, width]));
        pairs.par_chunks_exact_mut(width).enumerate().for_each(|(pair, out)| {
            let mut rows = ROWS.take();
            rows.clear();
            rows.resize(2 * width, 0.0);
            for (channel, row) in (2 * pair..self.shape.input.min(2 * pair + 2)).zip(rows.chunks_exact_mut(width)) {
                self.shape.gather(channel, streams, x, &layout.starts, row);
                if let Some(activation) = activation {
                    activation.channel(arch, channel, &mut row[..layout.columns]);
                }
            }
            let (a, b) = rows.split_at(width);
            arch.dispatch(Vectorized(
                #[inline(always)]
                || {
                    out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = join(*a, *b));
                },
            ));
            ROWS.set(rows);
        });
        pairs
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply(&self, pairs: &[f32], layout: &Layout, add: bool, y: &mut [f32]) {
        let channels = self.shape.input.next_multiple_of(32);
        assert_eq!(pairs.len(), channels / 2 * layout.width, "pairs [channels / 2, width]");
        let depth = self.shape.taps * channels;
        let rows = self.shape.rows();
        let shift = |tap| Shift { rows: tap * channels, columns: tap * self.shape.dilation };
        let shifts: Vec<Shift> = (0..self.shape.taps).map(shift).collect();
        let out = DisjointCols::new(y, layout.steps.iter().sum::<usize>() * self.shape.stride);
        let columns = layout.blocks();
        let pieces: Vec<_> = columns.chunks(COLUMNS / SIDE).collect();
        let blocks = rows.div_ceil(SIDE);
        (0..blocks * pieces.len()).into_par_iter().for_each(|task| {
            let first = task % blocks * SIDE;
            let weight = WeightRows::new(self.weight[first * depth..(first + SIDE) * depth].as_ptr(), depth);
            let registers = Tiles::new(self.instructions);
            let mut results = Block([0.0; SIDE * SIDE]);
            for (tiles, parts) in pieces[task / blocks] {
                assert!(tiles.iter().all(|tile| tile + self.past() + TILE <= layout.width), "tiles {tiles:?}");
                let operand = PairColumns {
                    at: pairs[tiles[0]..].as_ptr().cast(),
                    stride: layout.width,
                    // Without a second tile, the first is computed twice.
                    second: tiles[tiles.len() - 1] - tiles[0],
                    shifts: &shifts,
                    steps: channels / SIDE,
                };
                // SAFETY: 32 rows of weights were just taken, each of `depth` numbers, `channels` for each tap. There are
                // `channels / 2` rows of pairs, and in each the tiles and what the taps see behind them (just asserted: no tap is
                // shifted by more than `past`).
                unsafe { block(&registers, weight, operand, &mut results) };
                // SAFETY: no other task has these rows of these steps: a step belongs to one part only.
                parts.iter().for_each(|part| unsafe { self.store(&out, first, part, &results, add) });
            }
        });
    }

    /// Stores the results of one part, for the rows from `first` on, in the output.
    ///
    /// # Safety
    /// No other thread stores these rows of this part, and no piece that is alive holds an output of them.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn store(&self, out: &DisjointCols, first: usize, part: &Part, results: &Block, add: bool) {
        let Part { column, step, count, .. } = *part;
        let rows = (first..self.shape.rows()).zip(results.0.chunks_exact(SIDE));
        for (row, sums) in rows.map(|(row, sums)| (row, &sums[column..column + count])) {
            let channel = row / self.shape.stride;
            let bias = self.bias[channel];
            if self.shape.stride == 1 {
                // SAFETY: promised by the caller; the piece is dropped before the next. It lies in the matrix, or `piece` panics.
                let y = unsafe { out.piece(channel, step..step + count) };
                match add {
                    true => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum + bias),
                    false => y.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum + bias),
                }
            } else {
                let place = step * self.shape.stride + row % self.shape.stride;
                for (at, sum) in sums.iter().enumerate() {
                    // SAFETY: as above: no other row of weights makes this output.
                    unsafe { out.set(channel, place + at * self.shape.stride, sum + bias) };
                }
            }
        }
    }
}

thread_local! {
    static PAIRS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::tests::numbers;
    use crate::simd::tests::cases;
    use crate::simd::widen;
    use proptest::prelude::*;

    fn rounded(x: f32) -> f64 {
        f64::from(widen(narrow(x)))
    }

    /// Convolves `x` in pieces and concatenates their outputs, added to `start`.
    fn in_pieces(conv: &Bf16Conv, x: &[f32], time: usize, pieces: &[usize], start: Option<&[f32]>) -> Vec<Vec<f32>> {
        let [input, output] = conv.channels();
        let (mut history, mut rows, mut from) = (Vec::new(), vec![Vec::new(); output], 0);
        for piece in pieces.iter().copied().chain([time]) {
            let end = time.min(from + piece);
            let part = |all: &[f32], channels: usize| -> Vec<f32> {
                (0..channels).flat_map(|c| &all[c * time + from..c * time + end]).copied().collect()
            };
            let x = part(x, input);
            if x.is_empty() {
                continue;
            }
            let mut y = start.map(|start| part(start, output)).unwrap_or_default();
            let stream = ConvStream { history: &mut history, time: end - from };
            let length = conv.run(&mut [stream], &x, None, start.is_some(), &mut y)[0];
            rows.iter_mut().zip(y.chunks(length.max(1))).for_each(|(row, y)| row.extend_from_slice(y));
            from = end;
        }
        rows
    }

    /// Concatenates several streams along time; each is `[channels, time]`.
    fn beside(streams: &[Vec<f32>], channels: usize) -> Vec<f32> {
        let row = |channel: usize| {
            streams.iter().flat_map(move |values| {
                let time = values.len() / channels;
                &values[channel * time..][..time]
            })
        };
        (0..channels).flat_map(row).copied().collect()
    }

    fn convolution(
        processor: Processor,
        [input, output]: [usize; 2],
        kernel: usize,
        dilation: usize,
        kind: usize,
    ) -> Option<Bf16Conv> {
        let taps = [kernel, kernel, 2 * kernel][kind];
        let (weight, bias) = (numbers(output * input * taps, 3), numbers(output, 4));
        match kind {
            0 => Bf16Conv::causal_on(processor, &weight, &bias, [output, input, taps], dilation),
            _ => Bf16Conv::transposed_on(processor, &weight, &bias, [input, output, taps], kernel),
        }
    }

    proptest! {
        #![proptest_config(cases(48))]
        #[test]
        fn streams_together_get_the_very_numbers_each_gets_alone(
            channels in [1..40usize, 1..40usize], kernel in 1..6usize, dilation in 1..12usize, kind in 0..3usize,
            times in prop::collection::vec(prop::collection::vec(prop_oneof![0..12usize, 0..400usize], 1..5), 1..6), add: bool, activate: bool,
        ) {
            for processor in Processor::all() {
                let Some(conv) = convolution(processor, channels, kernel, dilation, kind) else { continue };
                let [input, output] = channels;
                let (frequency, amplitude) = (numbers(input, 7), numbers(input, 8));
                let activation = activate.then_some(Snake { frequency: &frequency, amplitude: &amplitude });
                let add = add && kind == 0;
                let mut alone = vec![Vec::new(); times.len()];
                let mut together = alone.clone();
                for step in 0..times.iter().map(Vec::len).max().unwrap_or(0) {
                    // Some end earlier.
                    let going: Vec<usize> = (0..times.len()).filter(|stream| step < times[*stream].len()).collect();
                    let seed = |stream: usize| 10 + step * times.len() + stream;
                    let x: Vec<_> = going.iter().map(|s| numbers(input * times[*s][step], seed(*s))).collect();
                    let start: Vec<_> = going.iter().map(|s| numbers(output * times[*s][step], 99 + seed(*s))).collect();
                    let mut expected = start.clone();
                    for ((s, x), y) in going.iter().zip(&x).zip(&mut expected) {
                        let stream = ConvStream { history: &mut alone[*s], time: times[*s][step] };
                        let length = conv.run(&mut [stream], x, activation, add, y);
                        prop_assert_eq!(length[0] * output, y.len());
                    }
                    let (x, mut y) = (beside(&x, input), beside(&start, output));
                    let streams = together.iter_mut().zip(&times).filter_map(|(history, times)| {
                        Some(ConvStream { history, time: *times.get(step)? })
                    });
                    let lengths = conv.run(&mut streams.collect::<Vec<_>>(), &x, activation, add, &mut y);
                    prop_assert_eq!(lengths, expected.iter().map(|y| y.len() / output).collect::<Vec<_>>());
                    let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                    prop_assert_eq!(bits(&y), bits(&beside(&expected, output)));
                    prop_assert_eq!(&together, &alone);
                }
            }
        }

        #[test]
        fn a_causal_convolution_in_any_pieces_is_right(
            input in 1..70usize, output in 1..40usize, kernel in 1..8usize, dilation in 1..10usize, time in 1..90usize,
            pieces in prop::collection::vec(1..40usize, 0..4), add: bool,
        ) {
            let weight = numbers(output * input * kernel, 3);
            let (bias, x, residual) = (numbers(output, 4), numbers(input * time, 5), numbers(output * time, 6));
            for processor in Processor::all() {
                let sizes = [output, input, kernel];
                let Some(conv) = Bf16Conv::causal_on(processor, &weight, &bias, sizes, dilation) else { continue };
                let rows = in_pieces(&conv, &x, time, &pieces, add.then_some(&residual[..]));
                for (o, row) in rows.iter().enumerate() {
                    prop_assert_eq!(row.len(), time);
                    for (t, y) in row.iter().enumerate() {
                        let mut sum = f64::from(bias[o]) + if add { f64::from(residual[o * time + t]) } else { 0.0 };
                        for (c, k) in (0..input).flat_map(|c| (0..kernel).map(move |k| (c, k))) {
                            if let Some(at) = t.checked_sub((kernel - 1 - k) * dilation) {
                                sum += rounded(weight[(o * input + c) * kernel + k]) * rounded(x[c * time + at]);
                            }
                        }
                        prop_assert!((sum - f64::from(*y)).abs() < 1e-3, "{sum} {y}");
                    }
                }
            }
        }

        #[test]
        fn a_transposed_convolution_in_any_pieces_is_right(
            input in 1..40usize, output in 1..20usize, stride in 1..6usize, overlap: bool, time in 1..60usize,
            pieces in prop::collection::vec(1..40usize, 0..4),
        ) {
            let kernel = if overlap { 2 * stride } else { stride };
            let weight = numbers(output * input * kernel, 3);
            let (bias, x) = (numbers(output, 4), numbers(input * time, 5));
            for processor in Processor::all() {
                let sizes = [input, output, kernel];
                let Some(conv) = Bf16Conv::transposed_on(processor, &weight, &bias, sizes, stride) else { continue };
                let rows = in_pieces(&conv, &x, time, &pieces, None);
                let cut = if overlap { stride } else { 0 };
                for (o, row) in rows.iter().enumerate() {
                    prop_assert_eq!(row.len(), time * stride - cut);
                    for (at, y) in row.iter().enumerate() {
                        let mut sum = f64::from(bias[o]);
                        for (c, t) in (0..input).flat_map(|c| (0..time).map(move |t| (c, t))) {
                            if let Some(k) = (at + cut).checked_sub(t * stride).filter(|k| *k < kernel) {
                                sum += rounded(weight[(c * output + o) * kernel + k]) * rounded(x[c * time + t]);
                            }
                        }
                        prop_assert!((sum - f64::from(*y)).abs() < 1e-3, "{sum} {y}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn a_dilation_whose_past_wraps_is_a_bug() {
        Bf16Conv::causal(&[0.0; 3], &[0.0], [1, 1, 3], usize::MAX / 2 + 1);
    }

    #[test]
    #[should_panic(expected = "are too large")]
    fn a_past_that_fits_no_memory_is_a_bug() {
        Bf16Conv::causal(&[0.0; 2], &[0.0], [1, 1, 2], usize::MAX / 8);
    }

    #[test]
    #[should_panic(expected = "with a size of 0")]
    fn a_convolution_without_inputs_is_a_bug() {
        Bf16Conv::causal(&[], &[0.0], [1, 0, 3], 1);
    }

    #[test]
    #[should_panic(expected = "a stride of 0")]
    fn a_stride_of_nothing_is_a_bug() {
        Bf16Conv::transposed(&[], &[0.0], [1, 1, 0], 0);
    }

    #[test]
    fn times_and_histories_of_other_lengths_are_bugs() {
        let Some(conv) = Bf16Conv::causal(&[1.0; 6], &[0.0], [1, 2, 3], 1) else { return };
        let refused = |history: &[f32], times: &[usize]| {
            let mut histories = vec![history.to_vec(); times.len()];
            let streams = histories.iter_mut().zip(times).map(|(history, time)| ConvStream { history, time: *time });
            let (mut streams, x) = (streams.collect::<Vec<_>>(), [1.0; 8]);
            let run = std::panic::AssertUnwindSafe(|| conv.run(&mut streams, &x, None, false, &mut Vec::new()));
            std::panic::catch_unwind(run).is_err()
        };
        assert!(!refused(&[0.0; 4], &[4]));
        assert!(refused(&[0.0; 4], &[5]));
        // A sum that wraps to 4.
        assert!(refused(&[], &[usize::MAX, 5]));
        assert!(refused(&[0.0; 3], &[4]), "no whole columns");
        assert!(refused(&[0.0; 6], &[4]), "more than is past");
    }
}
