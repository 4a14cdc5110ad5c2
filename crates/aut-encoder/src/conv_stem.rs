use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Tensor, TensorData};
use checkpoint::Weights;
use cpu_kernels::{Conv2dStack, Precision, TrainedConv2dStack};
use nn::{
    DeviceEngine, DeviceRows, Engine, HostEngine, HostFunction, HostInput, HostRows, Linear, Values, host_function,
    with_f32_slice,
};
use omni_core::{Dtype, Result};

use crate::config::AudioConfig;

/// Three convolutions that each halve time and mel bins, and a linear layer: chunks of log-mel frames to rows.
#[derive(Module, Debug)]
pub(crate) struct ConvStem {
    convolutions: Convolutions,
    pub(crate) conv_out: Linear,
}

/// `conv2d1` to `conv2d3`, in the form their engine convolves them in.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One per model.
pub(crate) enum Convolutions {
    Device(DeviceConvolutions),
    Host(HostConvolutions),
}

#[derive(Module, Debug)]
pub(crate) struct DeviceConvolutions {
    conv2d1: Conv,
    conv2d2: Conv,
    conv2d3: Conv,
}

/// Conv2d with a 3 × 3 kernel, stride 2 and zero padding of 1.
#[derive(Module, Debug)]
struct Conv {
    /// `[out, in, 3, 3]`.
    weight: Param<Tensor<4>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
}

#[derive(Debug, Clone)]
pub(crate) struct HostConvolutions(Arc<Conv2dStack>);

nn::without_parameters!(HostConvolutions);

const NAMES: [&str; 3] = ["conv2d1", "conv2d2", "conv2d3"];

impl Conv {
    fn load(weights: &Weights, [output, input]: [usize; 2]) -> Result<Self> {
        Ok(Self { weight: weights.param("weight", [output, input, 3, 3])?, bias: weights.param("bias", [output])? })
    }

    /// Convolution and GELU, in f32: `[B, in, h, w]` → `[B, out, h/2, w/2]`, halves rounded up.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new([2, 2], [1, 1], [1, 1], 1);
        // Where burn convolves without a matrix product it adds up in the number type of the inputs, and an output has thousands of terms.
        let (weight, bias) = (self.weight.val().cast(DType::F32), self.bias.val().cast(DType::F32));
        gpu_kernels::gelu(conv2d(x, weight, Some(bias), options))
    }
}

/// All three convolutions as one differentiable function of pictures `[B, M, F]` and of each layer's weight and bias.
#[derive(Debug, Clone, Copy)]
struct Trained;

impl Trained {
    fn stack(inputs: &[Values; 7]) -> TrainedConv2dStack {
        TrainedConv2dStack::new([1, 3, 5].map(|at| {
            let (weight, bias) = (inputs[at], inputs[at + 1]);
            (weight.values, bias.values, [weight.shape[0], weight.shape[1]])
        }))
    }

    fn size(pictures: Values) -> [usize; 2] {
        [pictures.shape[1], pictures.shape[2]]
    }
}

impl HostFunction<7> for Trained {
    fn forward(&self, inputs: [Values; 7]) -> (Vec<usize>, Vec<f32>) {
        self.forward_keeping(inputs).0
    }

    fn backward(&self, inputs: [Values; 7], output: Values, gradient: &[f32]) -> [Vec<f32>; 7] {
        let (_, kept) = self.forward_keeping(inputs);
        self.backward_of(inputs, (output, &kept), gradient, [true; 7])
    }

    fn forward_keeping(&self, inputs: [Values; 7]) -> ((Vec<usize>, Vec<f32>), Vec<f32>) {
        let [x, ..] = inputs;
        let [rows, kept] = Self::stack(&inputs).forward(x.values, Self::size(x));
        let time = x.shape[0] * (0..3).fold(x.shape[2], |frames, _| frames.div_ceil(2));
        ((vec![time, rows.len() / time.max(1)], rows), kept)
    }

    fn backward_of(
        &self,
        inputs: [Values; 7],
        (_, kept): (Values, &[f32]),
        gradient: &[f32],
        wanted: [bool; 7],
    ) -> [Vec<f32>; 7] {
        let [x, ..] = inputs;
        let found = Self::stack(&inputs).backward(x.values, Self::size(x), kept, gradient, wanted[0]);
        let [first, second, third] = found.layers;
        [found.x, first.weight, first.bias, second.weight, second.bias, third.weight, third.bias]
    }
}

impl DeviceConvolutions {
    /// Convolves pictures `[B, M, F]` to rows `[B * F/8, C * M/8]`.
    fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        self.trained(&x).unwrap_or_else(|| {
            let dtype = x.dtype();
            let x = self.conv2d1.forward(x.cast(DType::F32).unsqueeze_dim(1));
            let x = self.conv2d3.forward(self.conv2d2.forward(x)); // [B, C, M/8, F/8]
            let [batch, channels, bands, time] = x.dims();
            x.permute([0, 3, 1, 2]).reshape([batch * time, channels * bands]).cast(dtype)
        })
    }

    /// Runs the convolutions as one function with its own gradient; `None` where gradients are not computed in host memory.
    fn trained(&self, x: &Tensor<3>) -> Option<Tensor<2>> {
        let of = |conv: &Conv| [HostInput::new(conv.weight.val()), HostInput::new(conv.bias.val())];
        let [[a, b], [c, d], [e, f]] = [of(&self.conv2d1), of(&self.conv2d2), of(&self.conv2d3)];
        host_function(&Trained, [HostInput::new(x.clone()), a, b, c, d, e, f])
    }
}

impl Convolutions {
    fn load(weights: &Weights, channels: usize) -> Result<Self> {
        let shape = |index: usize| [channels, if index == 0 { 1 } else { channels }];
        if !weights.place().is_host() {
            let conv = |index: usize| Conv::load(&weights.at(NAMES[index]), shape(index));
            let (conv2d1, conv2d2, conv2d3) = (conv(0)?, conv(1)?, conv(2)?);
            return Ok(Convolutions::Device(DeviceConvolutions { conv2d1, conv2d2, conv2d3 }));
        }
        let mut values = Vec::new();
        for (index, name) in NAMES.into_iter().enumerate() {
            let [output, input] = shape(index);
            let weights = weights.at(name);
            values.push((weights.values("weight", &[output, input, 3, 3])?, weights.values("bias", &[output])?));
        }
        let bf16 = weights.compute_dtype() == Dtype::Bf16;
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let layers = [0, 1, 2].map(|index| (&values[index].0[..], &values[index].1[..], shape(index)));
        Ok(Convolutions::Host(HostConvolutions(Arc::new(Conv2dStack::new(layers, precision)))))
    }
}

impl ConvStem {
    pub(crate) fn load(weights: &Weights, config: &AudioConfig) -> Result<Self> {
        let channels = config.downsample_hidden_size;
        let bands = (0..3).fold(config.num_mel_bins, |n, _| n.div_ceil(2));
        Ok(Self {
            convolutions: Convolutions::load(weights, channels)?,
            conv_out: Linear::load(&weights.at("conv_out"), [config.d_model, channels * bands], false)?,
        })
    }

    /// Convolves chunks `[F, M]`, shorter ones padded with zeros to `padded` frames, to rows `[chunks * F/8, C * M/8]`.
    pub(crate) fn convolve<E: StemEngine>(&self, e: &E, chunks: &[Tensor<2>], padded: usize) -> E::Rows {
        e.convolve(&self.convolutions, chunks, padded)
    }

    /// Projects convolved rows `[N, C * M/8]` to rows `[N, D]`.
    pub(crate) fn project<E: StemEngine>(&self, e: &E, mut x: E::Rows) -> E::Rows {
        let [x] = e.linear(&mut x, [&self.conv_out]);
        x
    }
}

/// The engine's operation for the stem, beside those of [`Engine`].
pub(crate) trait StemEngine: Engine {
    /// See [`ConvStem::convolve`]; the columns are channel-major: `channel * bands + band`.
    fn convolve(&self, convolutions: &Convolutions, chunks: &[Tensor<2>], padded: usize) -> Self::Rows;
}

impl StemEngine for HostEngine {
    fn convolve(&self, convolutions: &Convolutions, chunks: &[Tensor<2>], padded: usize) -> HostRows {
        let Convolutions::Host(HostConvolutions(stack)) = convolutions else {
            panic!("weights on a device were handed to the engine of host memory")
        };
        let bins = chunks[0].dims()[1];
        let values: Vec<Vec<f32>> = chunks.iter().map(|chunk| with_f32_slice(chunk, <[f32]>::to_vec)).collect();
        let pixel =
            |chunk: usize, bin: usize, frame: usize| values[chunk].get(frame * bins + bin).copied().unwrap_or(0.0);
        let bands = (0..3).fold(bins, |n, _| n.div_ceil(2));
        let mut rows = self.take(0, 0);
        rows.fill_with(|y| {
            stack.columns((chunks.len(), [bins, padded]), pixel, y);
            stack.output() * bands
        });
        rows
    }
}

impl StemEngine for DeviceEngine {
    fn convolve(&self, convolutions: &Convolutions, chunks: &[Tensor<2>], padded: usize) -> DeviceRows {
        let Convolutions::Device(convolutions) = convolutions else {
            panic!("weights in host memory were handed to the engine of a device")
        };
        let whole = chunks.iter().map(|chunk| {
            let chunk = self.rows(&[chunk]).into_tensor();
            let ([frames, bins], dtype) = (chunk.dims(), DType::from(self.dtype()));
            let chunk = match padded - frames {
                0 => chunk,
                pad => Tensor::cat(vec![chunk, Tensor::zeros([pad, bins], (self.device(), dtype))], 0),
            };
            chunk.transpose() // [M, F]
        });
        convolutions.forward(Tensor::stack(whole.collect(), 0)).into()
    }
}

/// Convolved rows as feature maps `[chunks, C, M/8, F/8]`, for a probe.
pub(crate) fn pictures(rows: Tensor<2>, chunks: usize, channels: usize) -> Tensor<4> {
    let [count, width] = rows.dims();
    rows.reshape([chunks, count / chunks, channels, width / channels]).permute([0, 2, 3, 1])
}

/// Makes a tensor of rows of the given width.
pub(crate) fn tensor_of(values: Vec<f32>, width: usize, device: &burn::tensor::Device) -> Tensor<2> {
    let rows = values.len() / width;
    Tensor::from_data(TensorData::new(values, [rows, width]), device)
}
