//! Strided convolutions over time, ELU and nearest vectors, beside the operations of [`Engine`].

use burn::tensor::module::conv1d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, activation};
use cpu_kernels::{LinearShape, Precision, Weight, linear_to};
use nn::{DeviceEngine, DeviceRows, Engine, HostEngine, HostRows};

use crate::codebook::Codebook;
use crate::config::PadMode;
use crate::conv::{CausalConv, ConvSpec};
use crate::history::{History, Stream, rows};

/// The engine's operations for the encoder, on rows of several streams, one below another.
pub(crate) trait MimiEngine: Engine {
    /// `x` where it is positive, `e^x - 1` elsewhere.
    fn elu(&self, x: &Self::Rows) -> Self::Rows;
    /// Causal convolution of the streams' next rows; sets each stream's number of rows to that of its outputs. `None` is no rows at
    /// all: a stream's last outputs may come from its history alone.
    fn conv(&self, x: Option<Self::Rows>, conv: &CausalConv, streams: &mut [Stream]) -> Option<Self::Rows>;
    /// The nearest vector of each row, by its index, and what is left of the row without it.
    fn nearest(&self, x: Self::Rows, codebook: &Codebook) -> (Self::Rows, Self::Ids);
}

/// Puts the next rows `[T, C]` of a stream behind its history, with padding where the stream begins and ends.
fn gather(spec: &ConvSpec, history: Option<Vec<f32>>, new: &[f32], last: bool) -> Vec<f32> {
    let width = spec.channels[0];
    let repeated = |row: &[f32], times: usize| match spec.pad {
        PadMode::Constant => vec![0.0; times * width],
        PadMode::Replicate => row.repeat(times),
    };
    if history.is_none() && new.is_empty() {
        return Vec::new();
    }
    let mut inputs = history.unwrap_or_else(|| repeated(&new[..width], spec.past()));
    inputs.extend_from_slice(new);
    if last {
        let missing = spec.right_padding(inputs.len() / width);
        inputs.extend(repeated(&inputs[inputs.len() - width..], missing));
    }
    inputs
}

/// Copies the inputs of each output, tap after tap, into a row of `columns`.
fn copy_taps(spec: &ConvSpec, inputs: &[f32], columns: &mut [f32]) {
    let width = spec.channels[0];
    for (output, columns) in columns.chunks_exact_mut(spec.kernel * width).enumerate() {
        for (tap, column) in columns.chunks_exact_mut(width).enumerate() {
            let row = output * spec.stride + tap * spec.dilation;
            column.copy_from_slice(&inputs[row * width..][..width]);
        }
    }
}

impl MimiEngine for HostEngine {
    fn elu(&self, x: &HostRows) -> HostRows {
        let mut y = self.widened(x);
        cpu_kernels::elu(y.values_mut());
        y
    }

    fn conv(&self, x: Option<HostRows>, conv: &CausalConv, streams: &mut [Stream]) -> Option<HostRows> {
        let (spec, layer) = (&conv.spec, conv.kernel.host());
        if spec.is_pointwise() {
            return x.map(|mut x| self.linear(&mut x, [layer])).map(|[y]| y);
        }
        let width = spec.channels[0];
        let mut new = x.as_ref().map_or(&[][..], HostRows::values);
        let gathered = streams.iter_mut().map(|stream| {
            let (these, others) = new.split_at(stream.rows * width);
            new = others;
            let inputs = gather(spec, stream.histories[conv.index].take_host(), these, stream.last);
            stream.rows = spec.outputs(inputs.len() / width);
            inputs
        });
        let gathered: Vec<Vec<f32>> = gathered.collect();
        let mut columns = self.take(rows(streams), spec.kernel * width);
        let mut rest = columns.values_mut();
        for (stream, mut inputs) in streams.iter_mut().zip(gathered) {
            let (these, others) = rest.split_at_mut(stream.rows * spec.kernel * width);
            copy_taps(spec, &inputs, these);
            rest = others;
            if !inputs.is_empty() {
                let kept = inputs.split_off(stream.rows * spec.stride * width);
                stream.histories[conv.index] = History::Host(kept);
            }
        }
        (rows(streams) > 0).then(|| self.linear(&mut columns, [layer])).map(|[y]| y)
    }

    fn nearest(&self, mut x: HostRows, codebook: &Codebook) -> (HostRows, Vec<u32>) {
        let (vectors, biases) = codebook.host();
        let ([rows, input], output) = (x.shape(), biases.len());
        let mut scores = self.take(rows, output);
        let shape = LinearShape { rows, input, output };
        linear_to(x.values(), Weight::F32(vectors), Some(biases), shape, Precision::F32, scores.values_mut());
        let ids = scores.values().chunks_exact(output).map(greatest).collect::<Vec<u32>>();
        for (x, id) in x.values_mut().chunks_exact_mut(input).zip(&ids) {
            x.iter_mut().zip(&vectors[*id as usize * input..]).for_each(|(x, vector)| *x -= vector);
        }
        (x, ids)
    }
}

/// Index of the greatest value, the first of equal ones.
fn greatest(values: &[f32]) -> u32 {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best as u32
}

/// [`gather`] on a device; `None` if there are no rows.
fn gather_tensor(spec: &ConvSpec, history: Option<Tensor<2>>, new: Option<Tensor<2>>, last: bool) -> Option<Tensor<2>> {
    let repeated = |row: Tensor<2>, times: usize| match spec.pad {
        PadMode::Constant => Tensor::zeros([times, spec.channels[0]], (&row.device(), row.dtype())),
        PadMode::Replicate => row.repeat_dim(0, times),
    };
    let first = new.as_ref().map(|new| new.clone().narrow(0, 0, 1));
    let before = history.or_else(|| first.map(|first| repeated(first, spec.past())))?;
    let mut parts: Vec<_> = std::iter::once(before).chain(new).collect();
    let inputs: usize = parts.iter().map(|part| part.dims()[0]).sum();
    let missing = if last { spec.right_padding(inputs) } else { 0 };
    if let Some(end) = parts.last().filter(|_| missing > 0) {
        let rows = end.dims()[0];
        parts.push(repeated(end.clone().narrow(0, rows - 1, 1), missing));
    }
    Some(Tensor::cat(parts, 0))
}

/// Convolution without padding: rows `[T, in]` → `[outputs, out]`.
fn convolve(x: Tensor<2>, conv: &CausalConv) -> Tensor<2> {
    let (kernel, spec) = (conv.kernel.device(), &conv.spec);
    let options = ConvOptions::new([spec.stride], [0], [spec.dilation], 1);
    let bias = kernel.bias.as_ref().map(|bias| bias.val());
    let y = conv1d(x.transpose().unsqueeze::<3>(), kernel.weight.val(), bias, options); // [1, out, outputs]
    y.squeeze_dim::<2>(0).transpose()
}

/// Convolves the next rows of one stream; `None` if they complete no output.
fn convolve_stream(new: Option<Tensor<2>>, conv: &CausalConv, stream: &mut Stream) -> Option<Tensor<2>> {
    let (spec, history) = (&conv.spec, &mut stream.histories[conv.index]);
    stream.rows = 0;
    let inputs = gather_tensor(spec, history.take_tensor(), new, stream.last)?;
    let count = inputs.dims()[0];
    let outputs = spec.outputs(count);
    stream.rows = outputs;
    let used = outputs * spec.stride;
    *history = History::Tensor(inputs.clone().narrow(0, used, count - used));
    (outputs > 0).then(|| convolve(inputs.narrow(0, 0, used + spec.past()), conv))
}

impl MimiEngine for DeviceEngine {
    fn elu(&self, x: &DeviceRows) -> DeviceRows {
        activation::elu(x.tensor(), 1.0).into()
    }

    fn conv(&self, x: Option<DeviceRows>, conv: &CausalConv, streams: &mut [Stream]) -> Option<DeviceRows> {
        let x = x.map(DeviceRows::into_tensor);
        if conv.spec.is_pointwise() {
            return x.map(|x| convolve(x, conv).into());
        }
        let mut start = 0;
        let outputs = streams.iter_mut().filter_map(|stream| {
            let rows = stream.rows;
            let new = x.as_ref().filter(|_| rows > 0).map(|x| x.clone().narrow(0, start, rows));
            start += rows;
            convolve_stream(new, conv, stream)
        });
        let outputs: Vec<Tensor<2>> = outputs.collect();
        (!outputs.is_empty()).then(|| Tensor::cat(outputs, 0).into())
    }

    fn nearest(&self, x: DeviceRows, codebook: &Codebook) -> (DeviceRows, Self::Ids) {
        let x = x.into_tensor();
        let (vectors, biases) = codebook.device();
        let scores = x.clone().matmul(vectors.clone().transpose()) + biases.unsqueeze(); // [N, V]
        let ids = scores.argmax(1).squeeze_dim::<1>(1);
        ((x - vectors.select(0, ids.clone())).into(), ids)
    }
}
