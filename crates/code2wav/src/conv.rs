use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use checkpoint::Weights;
use cpu_kernels::{Conv1d, Precision};
use gpu_kernels::{Convolution, ConvolutionKind};
use nn::{Linear, Vector};
use omni_core::{Dtype, Result};

use crate::snake::Snake;

/// Sizes of a causal convolution of stride 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvSpec {
    pub(crate) channels: [usize; 2],
    pub(crate) kernel: usize,
    pub(crate) dilation: usize,
}

impl ConvSpec {
    pub(crate) fn new(input: usize, output: usize, kernel: usize) -> Self {
        Self { channels: [input, output], kernel, dilation: 1 }
    }
}

/// Causal Conv1d: its left padding is the history, zeros at first.
#[derive(Module, Debug)]
pub(crate) struct CausalConv {
    pub(crate) kernel: Kernel,
    pub(crate) dilation: usize,
}

/// ConvTranspose1d that upsamples time by its stride.
///
/// With a kernel of twice the stride, neighbouring outputs overlap; the reference cuts one stride from both ends, so an
/// output needs the input before it and the last input waits in the history.
#[derive(Module, Debug)]
pub(crate) struct TransposedConv {
    pub(crate) kernel: Kernel,
    pub(crate) stride: usize,
}

/// Weights in the form their engine convolves them in.
#[derive(Module, Debug)]
pub(crate) enum Kernel {
    Device(DeviceKernel),
    Host(HostKernel),
}

/// `weight` `[out, in, kernel]` (transposed `[in, out, kernel]`) and `bias` `[out]`.
#[derive(Module, Debug)]
pub(crate) struct DeviceKernel {
    pub(crate) weight: Param<Tensor<3>>,
    pub(crate) bias: Param<Tensor<1>>,
}

/// A convolution laid out for the kernels of host memory.
#[derive(Debug, Clone)]
pub(crate) struct HostKernel(Arc<Conv1d>);

nn::without_parameters!(HostKernel);

impl Kernel {
    fn load(
        weights: &Weights,
        shape: [usize; 3],
        output: usize,
        lay: impl FnOnce(&[f32], &[f32], Precision) -> Conv1d,
    ) -> Result<Self> {
        if !weights.place().is_host() {
            return Ok(Kernel::Device(DeviceKernel {
                weight: weights.param("weight", shape)?,
                bias: weights.param("bias", [output])?,
            }));
        }
        let bf16 = weights.compute_dtype() == Dtype::Bf16;
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let conv = lay(&weights.values("weight", &shape)?, &weights.values("bias", &[output])?, precision);
        Ok(Kernel::Host(HostKernel(Arc::new(conv))))
    }

    /// The convolution in host memory.
    ///
    /// # Panics
    /// If the model was loaded for a device.
    pub(crate) fn host(&self) -> &Conv1d {
        match self {
            Kernel::Host(kernel) => &kernel.0,
            Kernel::Device(_) => panic!("weights on a device were handed to the engine of host memory"),
        }
    }

    /// The kernel on the device.
    ///
    /// # Panics
    /// If the model was loaded for host memory.
    pub(crate) fn device(&self) -> &DeviceKernel {
        match self {
            Kernel::Device(kernel) => kernel,
            Kernel::Host(_) => panic!("weights in host memory were handed to the engine of a device"),
        }
    }
}

impl DeviceKernel {
    fn convolution(&self, kind: ConvolutionKind, act: Option<&Snake>) -> Convolution {
        let snake = act.map(|act| act.device().weights());
        Convolution { weight: self.weight.val(), bias: self.bias.val(), kind, snake }
    }
}

impl CausalConv {
    pub(crate) fn load(weights: &Weights, spec: ConvSpec) -> Result<Self> {
        let ([input, output], dilation) = (spec.channels, spec.dilation);
        let shape = [output, input, spec.kernel];
        let lay = |weight: &[f32], bias: &[f32], precision| Conv1d::causal(weight, bias, shape, dilation, precision);
        Ok(Self { kernel: Kernel::load(weights, shape, output, lay)?, dilation })
    }

    /// The convolution on a device, of the activated input if there is an activation.
    pub(crate) fn convolution(&self, act: Option<&Snake>) -> Convolution {
        self.kernel.device().convolution(ConvolutionKind::Causal { dilation: self.dilation }, act)
    }
}

impl TransposedConv {
    /// `shape` is `[in, out, kernel]`.
    pub(crate) fn load(weights: &Weights, shape: [usize; 3], stride: usize) -> Result<Self> {
        let lay = |weight: &[f32], bias: &[f32], precision| Conv1d::transposed(weight, bias, shape, stride, precision);
        Ok(Self { kernel: Kernel::load(weights, shape, shape[1], lay)?, stride })
    }

    /// The convolution of the activated input on a device.
    pub(crate) fn convolution(&self, act: &Snake) -> Convolution {
        self.kernel.device().convolution(ConvolutionKind::Transposed { stride: self.stride }, Some(act))
    }
}

/// ConvTranspose1d whose kernel is its stride: nothing overlaps, so it is a linear layer that makes several rows of each.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // A few per model.
pub(crate) enum UpsampleConv {
    /// `[in, out, factor]` and `[out]` on a device.
    Device(DeviceKernel),
    /// `[factor * out, in]` in host memory.
    Host(Linear),
}

impl UpsampleConv {
    pub(crate) fn load(weights: &Weights, width: usize, factor: usize) -> Result<Self> {
        let shape = [width, width, factor];
        if !weights.place().is_host() {
            return Ok(UpsampleConv::Device(DeviceKernel {
                weight: weights.param("weight", shape)?,
                bias: weights.param("bias", [width])?,
            }));
        }
        let (weight, bias) = (weights.values("weight", &shape)?, weights.values("bias", &[width])?);
        let rows = (0..factor * width).flat_map(|row| {
            let (place, output) = (row / width, row % width);
            let weight = &weight;
            (0..width).map(move |input| weight[(input * width + output) * factor + place])
        });
        let rows: Vec<f32> = rows.collect();
        let bias = bias.repeat(factor);
        Ok(UpsampleConv::Host(Linear::of_values(weights, &rows, [factor * width, width], Some(bias))))
    }
}

/// Depthwise convolution: each channel on its own.
#[derive(Module, Debug)]
pub(crate) struct Depthwise {
    /// `[C, 1, kernel]` on a device; `[kernel, C]` in host memory.
    pub(crate) weight: DepthwiseWeight,
    pub(crate) bias: Vector,
    pub(crate) taps: usize,
}

#[derive(Module, Debug)]
pub(crate) enum DepthwiseWeight {
    Device(Param<Tensor<3>>),
    Host(Vector),
}

impl Depthwise {
    pub(crate) fn load(weights: &Weights, width: usize, taps: usize) -> Result<Self> {
        let shape = [width, 1, taps];
        let weight = if weights.place().is_host() {
            let values = weights.values("weight", &shape)?;
            let by_tap = (0..taps).flat_map(|tap| values.iter().skip(tap).step_by(taps).copied());
            DepthwiseWeight::Host(Vector::of_values(by_tap.collect()))
        } else {
            DepthwiseWeight::Device(weights.param("weight", shape)?)
        };
        Ok(Self { weight, bias: Vector::load(weights, "bias", width)?, taps })
    }
}
