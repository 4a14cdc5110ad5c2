//! Convolutions along time in half precision, with the activation before them and the addition behind them.
//!
//! A convolution is the sum of one product per tap, each over the inputs at another time. Channels lie one after the other, each
//! `[time]`; two neighbouring channels make the pairs of [`crate::half`], so that a tap is a shift along the row and nothing is
//! copied for it.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports, unused_variables))] // No other processor has code here.
#![allow(unsafe_code)] // Raw operands of `half`, and tasks that write other rows of the same output.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::elementwise::Snake;
#[cfg(target_arch = "x86_64")]
use crate::half::{Block, Columns as Operand, HalfInstructions, Rows, SIDE, Shift, TILE, Tiles, block};
use crate::half_pairs::join;
use crate::memory::{Columns, aligned};
use crate::weight::narrow;

/// Columns of the output that one task computes, at most.
const COLUMNS: usize = 1024;

/// A convolution of stride 1 that sees only the past, or one that multiplies time by its stride.
#[derive(Debug, Clone)]
pub struct HalfConv {
    /// `[rows, taps, channels]` in bf16: rows a multiple of 32, channels a multiple of 32.
    weight: Vec<u16>,
    bias: Vec<f32>,
    input: usize,
    output: usize,
    taps: usize,
    /// Inputs from one tap to the next.
    dilation: usize,
    /// Outputs per input; one for a causal convolution.
    stride: usize,
    transposed: bool,
}

impl HalfConv {
    /// A causal convolution with a weight `[output, input, kernel]`; `None` on a processor without the instructions.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn causal(weight: &[f32], bias: &[f32], [output, input, kernel]: [usize; 3], dilation: usize) -> Option<Self> {
        assert!(
            weight.len() == output * input * kernel && bias.len() == output,
            "weight [output, input, kernel], bias"
        );
        let at = |row: usize, tap: usize, channel: usize| weight[(row * input + channel) * kernel + tap];
        let taps = [kernel, dilation];
        Self::new(at, bias, [input, output], taps, None)
    }

    /// A transposed convolution with a weight `[input, output, kernel]`, whose kernel is its stride or twice that. With twice
    /// the stride an output needs the input before it too; the outputs before the first input are cut.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn transposed(
        weight: &[f32],
        bias: &[f32],
        [input, output, kernel]: [usize; 3],
        stride: usize,
    ) -> Option<Self> {
        assert!(
            weight.len() == output * input * kernel && bias.len() == output,
            "weight [input, output, kernel], bias"
        );
        assert!(kernel == stride || kernel == 2 * stride, "a kernel of {kernel} with a stride of {stride}");
        let taps = kernel / stride;
        // The earlier input meets the later half of the kernel.
        let at = |row: usize, tap: usize, channel: usize| {
            let place = row % stride + (taps - 1 - tap) * stride;
            weight[(channel * output + row / stride) * kernel + place]
        };
        Self::new(at, bias, [input, output], [taps, 1], Some(stride))
    }

    fn new(
        at: impl Fn(usize, usize, usize) -> f32,
        bias: &[f32],
        [input, output]: [usize; 2],
        [taps, dilation]: [usize; 2],
        stride: Option<usize>,
    ) -> Option<Self> {
        if !available() {
            return None;
        }
        let (transposed, stride) = (stride.is_some(), stride.unwrap_or(1));
        let (rows, channels) = (output * stride, input.next_multiple_of(32));
        let mut weight = vec![0; rows.next_multiple_of(32) * taps * channels];
        for (row, weight) in weight.chunks_exact_mut(taps * channels).take(rows).enumerate() {
            for (tap, weight) in weight.chunks_exact_mut(channels).enumerate() {
                weight[..input].iter_mut().enumerate().for_each(|(channel, w)| *w = narrow(at(row, tap, channel)));
            }
        }
        Some(Self { weight, bias: bias.to_vec(), input, output, taps, dilation, stride, transposed })
    }

    /// Inputs from before the first one that outputs still need.
    pub fn past(&self) -> usize {
        (self.taps - 1) * self.dilation
    }

    /// Channels `[input, output]`.
    pub fn channels(&self) -> [usize; 2] {
        [self.input, self.output]
    }

    /// The outputs `[output, time * stride]` of new inputs `[input, time]`, whose activation is convolved; returns their length.
    ///
    /// `history` are the inputs before them, `[input, past]`, and become those before the next ones. An empty history stands for
    /// zeros where time is not multiplied; where it is, the outputs before the first input are left out. With `add` the outputs are
    /// added to what is in `y`, otherwise `y` gets their size.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn run(
        &self,
        history: &mut Vec<f32>,
        x: &[f32],
        activation: Option<Snake>,
        add: bool,
        y: &mut Vec<f32>,
    ) -> usize {
        let time = x.len() / self.input;
        assert_eq!(x.len(), time * self.input, "x [input, time]");
        let past = self.past();
        if history.is_empty() && !self.transposed {
            history.resize(self.input * past, 0.0);
        }
        let held = history.len() / self.input;
        let steps = (held + time).saturating_sub(past);
        let length = steps * self.stride;
        if add {
            assert!(y.len() == self.output * length && self.stride == 1, "y [output, time]");
        } else {
            y.resize(self.output * length, 0.0);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(instructions) = HalfInstructions::best() {
            let mut memory = PAIRS.take();
            // Beside a multiple of 4096 bytes, all rows would share their place in the first cache.
            let width = ((past + steps.next_multiple_of(SIDE)).div_ceil(TILE) | 1) * TILE;
            let pairs = self.pairs(history, held, x, time, activation, width, &mut memory);
            self.multiply(instructions, pairs, width, steps, add, y);
            PAIRS.set(memory);
        }
        self.keep(history, held, x, time);
        length
    }

    /// Pairs of channels `[channels / 2, width]`, activated and rounded.
    #[cfg(target_arch = "x86_64")]
    #[allow(clippy::too_many_arguments)] // The pieces of one operand.
    fn pairs<'a>(
        &self,
        history: &[f32],
        held: usize,
        x: &[f32],
        time: usize,
        activation: Option<Snake>,
        width: usize,
        memory: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let channels = self.input.next_multiple_of(32);
        let pairs = aligned(memory, channels / 2 * width);
        pairs.par_chunks_exact_mut(width).enumerate().for_each(|(pair, out)| {
            let mut rows = ROWS.take();
            rows.clear();
            rows.resize(2 * width, 0.0);
            for (channel, row) in (2 * pair..self.input.min(2 * pair + 2)).zip(rows.chunks_exact_mut(width)) {
                let row = &mut row[..held + time];
                row[..held].copy_from_slice(&history[channel * held..][..held]);
                row[held..].copy_from_slice(&x[channel * time..][..time]);
                if let Some(activation) = activation {
                    activation.channel(channel, row);
                }
            }
            let (a, b) = rows.split_at(width);
            pulp::Arch::new().dispatch(|| {
                out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = join(*a, *b));
            });
            ROWS.set(rows);
        });
        pairs
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply(
        &self,
        instructions: HalfInstructions,
        pairs: &[f32],
        width: usize,
        steps: usize,
        add: bool,
        y: &mut [f32],
    ) {
        let channels = self.input.next_multiple_of(32);
        let depth = self.taps * channels;
        let rows = self.output * self.stride;
        let shift = |tap| Shift { rows: tap * channels, columns: tap * self.dilation };
        let shifts: Vec<Shift> = (0..self.taps).map(shift).collect();
        let length = steps * self.stride;
        let out = Columns::new(y, length);
        let (blocks, pieces) = (rows.div_ceil(SIDE), steps.div_ceil(COLUMNS));
        (0..blocks * pieces).into_par_iter().for_each(|task| {
            let (first, piece) = (task % blocks * SIDE, task / blocks);
            let weight = Rows::new(self.weight[first * depth..(first + SIDE) * depth].as_ptr(), depth);
            let _tiles = Tiles::new(instructions);
            let mut results = Block([0.0; SIDE * SIDE]);
            for step in (piece * COLUMNS..steps.min((piece + 1) * COLUMNS)).step_by(SIDE) {
                let operand = Operand {
                    at: pairs[step..].as_ptr().cast(),
                    stride: width,
                    second: TILE,
                    shifts: &shifts,
                    steps: channels / SIDE,
                };
                // SAFETY: the instructions were found; the weights hold 32 rows of this depth, and a row of pairs is `past`
                // longer than the steps rounded up to 32.
                unsafe { block(instructions, weight, operand, &mut results) };
                let count = SIDE.min(steps - step);
                for (row, sums) in (first..rows).zip(results.0.chunks_exact(SIDE)) {
                    let channel = row / self.stride;
                    let bias = self.bias[channel];
                    if self.stride == 1 {
                        // SAFETY: these columns of this row are this task's alone; the piece is dropped before the next.
                        let y = unsafe { out.piece(row, step..step + count) };
                        match add {
                            true => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum + bias),
                            false => y.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum + bias),
                        }
                    } else {
                        for (at, sum) in sums[..count].iter().enumerate() {
                            let place = (step + at) * self.stride + row % self.stride;
                            // SAFETY: as above: no other row of weights makes this output.
                            let y = unsafe { out.piece(channel, place..place + 1) };
                            y[0] = sum + bias;
                        }
                    }
                }
            }
        });
    }

    /// The last inputs are the next ones' history.
    fn keep(&self, history: &mut Vec<f32>, held: usize, x: &[f32], time: usize) {
        let past = self.past();
        if past == 0 {
            return history.clear();
        }
        let kept = past.min(held + time);
        let mut next = Vec::with_capacity(self.input * kept);
        for channel in 0..self.input {
            let from_history = kept.saturating_sub(time);
            next.extend_from_slice(&history[channel * held + held - from_history..][..from_history]);
            next.extend_from_slice(&x[channel * time..][time - (kept - from_history)..time]);
        }
        *history = next;
    }
}

pub(crate) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return HalfInstructions::best().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

thread_local! {
    static PAIRS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::few::tests::numbers;
    use crate::weight::widen;
    use proptest::prelude::*;

    fn rounded(x: f32) -> f64 {
        f64::from(widen(narrow(x)))
    }

    /// All inputs in pieces, the outputs of the pieces one behind the other, added to `start`.
    fn in_pieces(conv: &HalfConv, x: &[f32], time: usize, pieces: &[usize], start: Option<&[f32]>) -> Vec<Vec<f32>> {
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
            let length = conv.run(&mut history, &x, None, start.is_some(), &mut y);
            rows.iter_mut().zip(y.chunks(length.max(1))).for_each(|(row, y)| row.extend_from_slice(y));
            from = end;
        }
        rows
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_causal_convolution_in_any_pieces_is_right(
            input in 1..70usize, output in 1..40usize, kernel in 1..8usize, dilation in 1..10usize, time in 1..90usize,
            pieces in prop::collection::vec(1..40usize, 0..4), add: bool,
        ) {
            let weight = numbers(output * input * kernel, 3);
            let (bias, x, residual) = (numbers(output, 4), numbers(input * time, 5), numbers(output * time, 6));
            let Some(conv) = HalfConv::causal(&weight, &bias, [output, input, kernel], dilation) else { return Ok(()) };
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

        #[test]
        fn a_transposed_convolution_in_any_pieces_is_right(
            input in 1..40usize, output in 1..20usize, stride in 1..6usize, overlap: bool, time in 1..60usize,
            pieces in prop::collection::vec(1..40usize, 0..4),
        ) {
            let kernel = if overlap { 2 * stride } else { stride };
            let weight = numbers(output * input * kernel, 3);
            let (bias, x) = (numbers(output, 4), numbers(input * time, 5));
            let Some(conv) = HalfConv::transposed(&weight, &bias, [input, output, kernel], stride) else { return Ok(()) };
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
