use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::module::{conv_transpose1d, conv1d};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use checkpoint::Weights;
use omni_core::Result;

/// Inputs a layer still needs for its next outputs; `None` before the first step.
pub(crate) type History = Option<Tensor<3>>;

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
    /// `[out, in / groups, kernel]`.
    weight: Param<Tensor<3>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
    dilation: usize,
    groups: usize,
}

impl CausalConv {
    pub(crate) fn load(weights: &Weights, spec: ConvSpec) -> Result<Self> {
        let [input, output] = spec.channels;
        Ok(Self {
            weight: Param::from_tensor(weights.tensor("weight", [output, input / spec.groups, spec.kernel])?),
            bias: Param::from_tensor(weights.tensor("bias", [output])?),
            dilation: spec.dilation,
            groups: spec.groups,
        })
    }

    /// `[B, in, T]` → `[B, out, T]`.
    pub(crate) fn forward(&self, x: Tensor<3>, history: &mut History) -> Tensor<3> {
        let ([batch, channels, _], past) = (x.dims(), (self.weight.dims()[2] - 1) * self.dilation);
        let x = if past == 0 {
            x
        } else {
            let zeros = || Tensor::zeros([batch, channels, past], (&x.device(), x.dtype()));
            let padded = Tensor::cat(vec![history.take().unwrap_or_else(zeros), x], 2); // [B, in, past + T]
            let length = padded.dims()[2];
            *history = Some(padded.clone().narrow(2, length - past, past));
            padded
        };
        let options = ConvOptions::new([1], [0], [self.dilation], self.groups);
        conv1d(x, self.weight.val(), Some(self.bias.val()), options)
    }
}

/// ConvTranspose1d that multiplies time by its stride.
///
/// With a kernel of twice the stride, neighbouring outputs overlap; the reference cuts one stride from both ends, so an
/// output needs the input before it and the last input waits in the history. With kernel = stride nothing overlaps.
#[derive(Module, Debug)]
pub(crate) struct TransposedConv {
    /// `[in, out, kernel]`.
    weight: Param<Tensor<3>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
    stride: usize,
}

impl TransposedConv {
    pub(crate) fn load(weights: &Weights, [input, output, kernel]: [usize; 3], stride: usize) -> Result<Self> {
        Ok(Self {
            weight: Param::from_tensor(weights.tensor("weight", [input, output, kernel])?),
            bias: Param::from_tensor(weights.tensor("bias", [output])?),
            stride,
        })
    }

    /// `[B, in, T]` → `[B, out, T * stride]`, without the first stride of the stream if outputs overlap.
    pub(crate) fn forward(&self, x: Tensor<3>, history: &mut History) -> Tensor<3> {
        let options = ConvTransposeOptions::new([self.stride], [0], [0], [1], 1);
        let run = |x| conv_transpose1d(x, self.weight.val(), Some(self.bias.val()), options.clone());
        if self.weight.dims()[2] == self.stride {
            return run(x);
        }
        let last = x.dims()[2] - 1;
        let newest = x.clone().narrow(2, last, 1);
        let x = match history.replace(newest) {
            Some(before) => Tensor::cat(vec![before, x], 2),
            None => x,
        };
        let inputs = x.dims()[2];
        run(x).narrow(2, self.stride, (inputs - 1) * self.stride)
    }
}
