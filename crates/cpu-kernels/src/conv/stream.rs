//! What convolutions along time share in every precision: their sizes, and the history that a stream carries on.

use crate::activation::Snake;
use crate::buffer::{size, total};

/// One of the streams that a convolution takes together.
#[derive(Debug)]
pub struct ConvStream<'a> {
    /// Inputs before the new ones, `[input, past]`; replaced by those before the next ones. Empty before the first input.
    pub history: &'a mut Vec<f32>,
    /// Number of new inputs.
    pub time: usize,
}

/// Sizes of a convolution: causal with stride 1, or transposed, which multiplies time by its stride.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) taps: usize,
    /// Inputs from one tap to the next.
    pub(crate) dilation: usize,
    /// Outputs per input; 1 for a causal convolution.
    pub(crate) stride: usize,
    transposed: bool,
}

impl ConvShape {
    /// Checks the sizes of a causal convolution with a weight `[output, input, kernel]`.
    ///
    /// # Panics
    /// If the lengths do not agree, a size is zero, or the padded history fits no memory.
    pub(crate) fn causal(weight: &[f32], bias: &[f32], sizes: [usize; 3], dilation: usize) -> Self {
        let [output, input, taps] = sizes;
        assert!(weight.len() == size(sizes) && bias.len() == output, "weight [output, input, kernel], bias");
        Self { input, output, taps, dilation, stride: 1, transposed: false }.checked()
    }

    /// Checks the sizes of a transposed convolution with a weight `[input, output, kernel]`, whose kernel is its stride or twice
    /// that.
    ///
    /// # Panics
    /// If the lengths do not agree, or a size is zero.
    pub(crate) fn transposed(weight: &[f32], bias: &[f32], sizes: [usize; 3], stride: usize) -> Self {
        let [input, output, kernel] = sizes;
        assert!(weight.len() == size(sizes) && bias.len() == output, "weight [input, output, kernel], bias");
        let twice = stride.checked_mul(2);
        assert!(kernel == stride || Some(kernel) == twice, "a kernel of {kernel} with a stride of {stride}");
        assert!(stride > 0, "a stride of 0");
        Self { input, output, taps: kernel / stride, dilation: 1, stride, transposed: true }.checked()
    }

    fn checked(self) -> Self {
        let sizes = [self.input, self.output, self.taps, self.dilation];
        assert!(!sizes.contains(&0), "a convolution with a size of 0: input, output, taps, dilation {sizes:?}");
        // Weights and inputs may be padded to whole blocks of channels.
        let past = size([self.taps - 1, self.dilation]);
        size([total([self.input, 32]), total([past, 1]), 4 * size_of::<f32>()]);
        self
    }

    /// Inputs before its own that an output needs.
    pub(crate) fn past(&self) -> usize {
        (self.taps - 1) * self.dilation
    }

    /// Rows of weights: one for each output and position within the stride.
    pub(crate) fn rows(&self) -> usize {
        self.output * self.stride
    }

    /// Zeros that a causal convolution sees before a stream's first input.
    pub(crate) fn zeros(&self) -> usize {
        if self.transposed { 0 } else { self.past() }
    }

    /// The weight of a row for a channel at a tap; the first tap sees the earliest input.
    pub(crate) fn at(&self, weight: &[f32], row: usize, channel: usize, tap: usize) -> f32 {
        weight[self.place(row, channel, tap)]
    }

    /// Where the weight of a row for a channel at a tap lies.
    pub(crate) fn place(&self, row: usize, channel: usize, tap: usize) -> usize {
        let Self { input, output, taps, stride, .. } = *self;
        if !self.transposed {
            return (row * input + channel) * taps + tap;
        }
        // The earlier input meets the later half of the kernel.
        let place = row % stride + (taps - 1 - tap) * stride;
        (channel * output + row / stride) * taps * stride + place
    }

    /// Fills the histories of new streams with zeros where needed, and returns the number of inputs of each stream, history
    /// included.
    ///
    /// # Panics
    /// If the lengths do not agree, or a history is longer than the convolution needs.
    pub(crate) fn begin(&self, streams: &mut [ConvStream], x: &[f32], activation: Option<Snake>) -> Vec<usize> {
        let time = total(streams.iter().map(|stream| stream.time));
        assert_eq!(x.len(), size([time, self.input]), "x [input, sum of times]");
        let channels = activation.map(|activation| activation.channels());
        assert!(channels.is_none_or(|channels| channels == self.input), "an activation of {channels:?} channels");
        let begin = |stream: &mut ConvStream| {
            if stream.history.is_empty() {
                stream.history.resize(size([self.input, self.zeros()]), 0.0);
            }
            let held = stream.history.len() / self.input;
            let whole = stream.history.len() == held * self.input;
            assert!(held <= self.past() && whole, "a history [input, past or less]");
            held + stream.time
        };
        streams.iter_mut().map(begin).collect()
    }

    /// Resizes `y` `[output, sum of lengths]`, or with `add` checks its length; returns the number of outputs each stream gets
    /// for its `steps`.
    ///
    /// # Panics
    /// With `add`, if `y` has another length or the convolution is transposed with a stride above 1.
    pub(crate) fn size_outputs(&self, steps: &[usize], add: bool, y: &mut Vec<f32>) -> Vec<usize> {
        let lengths: Vec<usize> = steps.iter().map(|steps| size([*steps, self.stride])).collect();
        let length = size([self.output, total(lengths.iter().copied())]);
        if add {
            assert!(y.len() == length && self.stride == 1, "y [output, sum of times]");
        } else {
            y.resize(length, 0.0);
        }
        lengths
    }

    /// Copies the inputs of one channel of all streams, each after its history, to the columns that begin at `starts`.
    pub(crate) fn gather(&self, channel: usize, streams: &[ConvStream], x: &[f32], starts: &[usize], row: &mut [f32]) {
        let total = x.len() / self.input;
        let mut x = &x[channel * total..][..total];
        for (stream, start) in streams.iter().zip(starts) {
            let (new, others) = x.split_at(stream.time);
            let held = stream.history.len() / self.input;
            let (before, row) = row[*start..][..held + new.len()].split_at_mut(held);
            before.copy_from_slice(&stream.history[channel * held..][..held]);
            row.copy_from_slice(new);
            x = others;
        }
    }

    /// Keeps each stream's last inputs as its history.
    pub(crate) fn keep(&self, streams: &mut [ConvStream], x: &[f32]) {
        let (past, total) = (self.past(), x.len() / self.input);
        let mut first = 0;
        for ConvStream { history, time } in streams {
            let held = history.len() / self.input;
            let kept = past.min(held + *time);
            let from_history = kept.saturating_sub(*time);
            let mut next = Vec::with_capacity(self.input * kept);
            for channel in 0..self.input {
                next.extend_from_slice(&history[channel * held..][held - from_history..held]);
                next.extend_from_slice(&x[channel * total + first..][*time - (kept - from_history)..*time]);
            }
            **history = next;
            first += *time;
        }
    }
}
