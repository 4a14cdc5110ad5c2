use std::sync::Arc;

use burn::module::Module;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, TensorData};
use checkpoint::{AudioConfig, Weights};
use kernels::{HalfConv2d, Planes};
use nn::{Linear, Then, gelu, with_numbers};
use omni_core::{Dtype, Result};

use crate::AutProbe;

/// Three convolutions that halve time and mel bins, and a linear layer: chunks of log-mel frames to rows.
#[derive(Module, Debug)]
pub(crate) struct ConvStem {
    #[module(skip)]
    convolutions: Convolutions,
    conv_out: Linear,
}

/// `conv2d1` to `conv2d3`, in the form their device convolves them in.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // One per encoder.
enum Convolutions {
    Tensor([Conv; 3]),
    /// On the CPU in half precision.
    Host(Arc<[HalfConv2d; 3]>),
}

/// Conv2d with a 3 × 3 kernel, stride 2 and one row of zeros around.
#[derive(Debug, Clone)]
struct Conv {
    /// `[out, in, 3, 3]`.
    weight: Tensor<4>,
    /// `[out]`.
    bias: Tensor<1>,
}

/// What the stem works with on the CPU, for the next chunks.
#[derive(Default)]
pub(crate) struct StemMemory {
    pictures: [Planes; 3],
    columns: Vec<f32>,
    /// Rows `[chunks, F/8, D]`.
    pub(crate) rows: Vec<f32>,
}

impl Conv {
    fn load(weights: &Weights, [input, output]: [usize; 2]) -> Result<Self> {
        Ok(Self { weight: weights.tensor("weight", [output, input, 3, 3])?, bias: weights.tensor("bias", [output])? })
    }

    /// `[B, in, h, w]` → `[B, out, h/2, w/2]`, halves rounded up, after GELU.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new([2, 2], [1, 1], [1, 1], 1);
        gelu(conv2d(x, self.weight.clone(), Some(self.bias.clone()), options))
    }

    fn halved(&self) -> Option<HalfConv2d> {
        let [output, input, ..] = self.weight.dims();
        with_numbers(&self.weight, |w| with_numbers(&self.bias, |b| HalfConv2d::new(w, b, [output, input])))
    }
}

impl ConvStem {
    pub(crate) fn load(weights: &Weights, config: &AudioConfig) -> Result<Self> {
        let channels = config.downsample_hidden_size;
        let bands = (0..3).fold(config.num_mel_bins, |n, _| n.div_ceil(2));
        let conv = |name, input| Conv::load(&weights.at(name), [input, channels]);
        let tensors = [conv("conv2d1", 1)?, conv("conv2d2", channels)?, conv("conv2d3", channels)?];
        // On the CPU in half precision if that was asked for and the processor has it.
        let halves = weights.asked_dtype() == Dtype::Bf16 && checkpoint::is_host(weights.device());
        let halved = match tensors.each_ref().map(|conv| if halves { conv.halved() } else { None }) {
            [Some(a), Some(b), Some(c)] => Some(Convolutions::Host(Arc::new([a, b, c]))),
            _ => None,
        };
        Ok(Self {
            convolutions: halved.unwrap_or(Convolutions::Tensor(tensors)),
            conv_out: Linear::load(&weights.at("conv_out"), [config.d_model, channels * bands], false)?,
        })
    }

    /// # Shapes
    /// Chunks `[B, M, F]` → rows `[B, F/8, D]`.
    ///
    /// # Panics
    /// If the convolutions are prepared for [`ConvStem::on_host`].
    pub(crate) fn forward(&self, chunks: Tensor<3>, probe: &mut dyn AutProbe) -> Tensor<3> {
        let Convolutions::Tensor([conv1, conv2, conv3]) = &self.convolutions else {
            unreachable!("prepared convolutions read memory")
        };
        let x = chunks.unsqueeze_dim(1); // [B, 1, M, F]
        let x = conv3.forward(conv2.forward(conv1.forward(x))); // [B, C, M/8, F/8]
        probe.conv(&x);
        let [batch, channels, bands, time] = x.dims();
        // Channel-major: index = channel * bands + band.
        let x = x.permute([0, 3, 1, 2]).reshape([batch, time, channels * bands]);
        let x = self.conv_out.forward(x); // [B, F/8, D]
        probe.conv_out(&x);
        x
    }

    /// As [`ConvStem::forward`] of chunks `[F, M]`, shorter ones padded with zeros to `padded` frames, into `memory.rows`; returns
    /// the rows of a chunk. `None` if the convolutions are not prepared for it.
    pub(crate) fn on_host(
        &self,
        chunks: &[Tensor<2>],
        padded: usize,
        memory: &mut StemMemory,
        probe: &mut dyn AutProbe,
    ) -> Option<usize> {
        let Convolutions::Host(convolutions) = &self.convolutions else { return None };
        let [conv1, conv2, conv3] = &**convolutions;
        let StemMemory { pictures: [first, second, third], columns, rows } = memory;
        let bins = chunks[0].dims()[1];
        first.shape(chunks.len(), 1, [bins, padded]);
        for (index, chunk) in chunks.iter().enumerate() {
            with_numbers(chunk, |values| {
                first.set(index, |bin, frame| values.get(frame * bins + bin).copied().unwrap_or(0.0));
            });
        }
        conv1.pictures(first, second);
        conv2.pictures(second, third);
        conv3.columns(third, columns); // [B, F/8, C, M/8]
        let (count, width) = (columns.len() / self.conv_out.input(), self.conv_out.output());
        rows.resize(count * width, 0.0);
        self.conv_out.host_rows(columns, Then::Keep, rows);
        let (batch, time) = (chunks.len(), count / chunks.len());
        if probe.looks() {
            let (device, channels) = (chunks[0].device(), conv3.channels()[1]);
            let shape = [batch, time, channels, self.conv_out.input() / channels];
            let x = Tensor::<4>::from_data(TensorData::new(columns.clone(), shape), &device);
            probe.conv(&x.permute([0, 2, 3, 1]));
            probe.conv_out(&Tensor::from_data(TensorData::new(rows.clone(), [batch, time, width]), &device));
        }
        Some(time)
    }
}
