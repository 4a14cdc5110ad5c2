use std::sync::Arc;

use burn::module::Module;
use burn::tensor::module::{conv_transpose1d, conv1d};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use burn::tensor::{Tensor, TensorData};
use checkpoint::Weights;
use kernels::{ConvStream, HalfConv};
use nn::with_numbers;
use omni_core::{Dtype, Result};

use crate::snake::Snake;

/// Inputs a layer still needs for its next outputs.
#[derive(Debug, Clone, Default)]
#[allow(clippy::large_enum_variant)] // A few per stream.
pub(crate) enum History {
    /// Before the first step.
    #[default]
    None,
    /// `[B, C, past]`, activated.
    Tensor(Tensor<3>),
    /// Of each row `[C, past]`, not yet activated.
    Host(Vec<Vec<f32>>),
}

impl History {
    /// Of each of `batch` rows, on the CPU.
    pub(crate) fn host(&mut self, batch: usize) -> &mut Vec<Vec<f32>> {
        if !matches!(self, History::Host(_)) {
            *self = History::Host(vec![Vec::new(); batch]);
        }
        match self {
            History::Host(rows) => rows,
            _ => unreachable!("just made"),
        }
    }
}

/// Sizes of a causal convolution of stride 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvSpec {
    pub(crate) channels: [usize; 2],
    pub(crate) kernel: usize,
    pub(crate) dilation: usize,
    pub(crate) groups: usize,
}

impl ConvSpec {
    pub(crate) fn new(input: usize, output: usize, kernel: usize) -> Self {
        Self { channels: [input, output], kernel, dilation: 1, groups: 1 }
    }
}

/// Conv1d that sees only the past: its left edge is the history, zeros at first.
#[derive(Module, Debug)]
pub(crate) struct CausalConv {
    #[module(skip)]
    kernel: Kernel,
    dilation: usize,
    groups: usize,
}

/// Weights in the form their device convolves them in.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // One per convolution.
enum Kernel {
    /// `[out, in / groups, kernel]` (transposed `[in, out, kernel]`) and `[out]`.
    Tensor { weight: Tensor<3>, bias: Tensor<1> },
    /// On the CPU in half precision.
    Host(Arc<HalfConv>),
}

impl Kernel {
    fn tensor(weights: &Weights, shape: [usize; 3], output: usize) -> Result<Self> {
        Ok(Kernel::Tensor { weight: weights.tensor("weight", shape)?, bias: weights.tensor("bias", [output])? })
    }

    fn host(&self) -> Option<&HalfConv> {
        match self {
            Kernel::Host(conv) => Some(conv),
            Kernel::Tensor { .. } => None,
        }
    }

    /// On the CPU in half precision if that was asked for and the processor has it.
    fn halved(self, weights: &Weights, prepare: impl FnOnce(&[f32], &[f32], [usize; 3]) -> Option<HalfConv>) -> Self {
        if weights.asked_dtype() != Dtype::Bf16 || !checkpoint::is_host(weights.device()) {
            return self;
        }
        let Kernel::Tensor { weight, bias } = &self else { return self };
        let conv = with_numbers(weight, |w| with_numbers(bias, |b| prepare(w, b, weight.dims())));
        conv.map_or(self, |conv| Kernel::Host(Arc::new(conv)))
    }
}

/// Each row by itself through a prepared convolution.
fn on_host(
    conv: &HalfConv,
    x: &Tensor<3>,
    history: &mut History,
    act: Option<&Snake>,
    residual: Option<&Tensor<3>>,
) -> Tensor<3> {
    let ([batch, _, time], [input, output]) = (x.dims(), conv.channels());
    let rows = history.host(batch);
    let residual = residual.map(nn::numbers);
    let (mut values, mut length) = (Vec::new(), 0);
    with_numbers(x, |x| {
        for (row, history) in rows.iter_mut().enumerate() {
            let of_row = |all: &[f32]| all[row * all.len() / batch..][..all.len() / batch].to_vec();
            let mut y = residual.as_deref().map(of_row).unwrap_or_default();
            let x = &x[row * input * time..][..input * time];
            let stream = ConvStream { history, time };
            length = conv.run(&mut [stream], x, act.map(Snake::host), residual.is_some(), &mut y)[0];
            values.extend(y);
        }
    });
    Tensor::from_data(TensorData::new(values, [batch, output, length]), &x.device())
}

impl CausalConv {
    pub(crate) fn load(weights: &Weights, spec: ConvSpec) -> Result<Self> {
        let [input, output] = spec.channels;
        let mut kernel = Kernel::tensor(weights, [output, input / spec.groups, spec.kernel], output)?;
        if spec.groups == 1 {
            kernel = kernel.halved(weights, |w, b, shape| HalfConv::causal(w, b, shape, spec.dilation));
        }
        Ok(Self { kernel, dilation: spec.dilation, groups: spec.groups })
    }

    /// The prepared convolution on the CPU, if that is where it runs.
    pub(crate) fn host(&self) -> Option<&HalfConv> {
        self.kernel.host()
    }

    /// `[B, in, T]` → `[B, out, T]`: the convolution of the activated input, plus `residual` `[B, out, T]`.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        history: &mut History,
        act: Option<&Snake>,
        residual: Option<Tensor<3>>,
    ) -> Tensor<3> {
        let (weight, bias) = match &self.kernel {
            Kernel::Host(conv) => return on_host(conv, &x, history, act, residual.as_ref()),
            Kernel::Tensor { weight, bias } => (weight.clone(), bias.clone()),
        };
        let x = act.map_or_else(|| x.clone(), |act| act.forward(x.clone()));
        let ([batch, channels, _], past) = (x.dims(), (weight.dims()[2] - 1) * self.dilation);
        let x = if past == 0 {
            x
        } else {
            let before = match std::mem::take(history) {
                History::Tensor(before) => before,
                _ => Tensor::zeros([batch, channels, past], (&x.device(), x.dtype())),
            };
            let padded = Tensor::cat(vec![before, x], 2); // [B, in, past + T]
            let length = padded.dims()[2];
            *history = History::Tensor(padded.clone().narrow(2, length - past, past));
            padded
        };
        let options = ConvOptions::new([1], [0], [self.dilation], self.groups);
        let y = conv1d(x, weight, Some(bias), options);
        match residual {
            Some(residual) => y + residual,
            None => y,
        }
    }
}

/// ConvTranspose1d that multiplies time by its stride.
///
/// With a kernel of twice the stride, neighbouring outputs overlap; the reference cuts one stride from both ends, so an
/// output needs the input before it and the last input waits in the history. With kernel = stride nothing overlaps.
#[derive(Module, Debug)]
pub(crate) struct TransposedConv {
    #[module(skip)]
    kernel: Kernel,
    stride: usize,
}

impl TransposedConv {
    pub(crate) fn load(weights: &Weights, shape: [usize; 3], stride: usize) -> Result<Self> {
        let kernel = Kernel::tensor(weights, shape, shape[1])?;
        Ok(Self { kernel: kernel.halved(weights, |w, b, shape| HalfConv::transposed(w, b, shape, stride)), stride })
    }

    /// As [`CausalConv::host`].
    pub(crate) fn host(&self) -> Option<&HalfConv> {
        self.kernel.host()
    }

    /// Outputs per input.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// `[B, in, T]` → `[B, out, T * stride]` of the activated input, without the first stride of the stream if outputs overlap.
    pub(crate) fn forward(&self, x: Tensor<3>, history: &mut History, act: Option<&Snake>) -> Tensor<3> {
        let (weight, bias) = match &self.kernel {
            Kernel::Host(conv) => return on_host(conv, &x, history, act, None),
            Kernel::Tensor { weight, bias } => (weight, bias),
        };
        let x = act.map_or_else(|| x.clone(), |act| act.forward(x.clone()));
        let options = ConvTransposeOptions::new([self.stride], [0], [0], [1], 1);
        let run = |x| conv_transpose1d(x, weight.clone(), Some(bias.clone()), options.clone());
        if weight.dims()[2] == self.stride {
            return run(x);
        }
        let last = x.dims()[2] - 1;
        let newest = x.clone().narrow(2, last, 1);
        let x = match std::mem::replace(history, History::Tensor(newest)) {
            History::Tensor(before) => Tensor::cat(vec![before, x], 2),
            _ => x,
        };
        let inputs = x.dims()[2];
        run(x).narrow(2, self.stride, (inputs - 1) * self.stride)
    }
}
