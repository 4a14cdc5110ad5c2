use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use checkpoint::{AudioConfig, Weights};
use nn::{Linear, gelu};
use omni_core::Result;

use crate::AutProbe;

/// Three convolutions that halve time and mel bins, and a linear layer: chunks of log-mel frames to rows.
#[derive(Module, Debug)]
pub(crate) struct ConvStem {
    conv2d1: Conv,
    conv2d2: Conv,
    conv2d3: Conv,
    conv_out: Linear,
}

/// Conv2d with a 3 × 3 kernel, stride 2 and one row of zeros around.
#[derive(Module, Debug)]
struct Conv {
    /// `[out, in, 3, 3]`.
    weight: Param<Tensor<4>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
}

impl Conv {
    fn load(weights: &Weights, [input, output]: [usize; 2]) -> Result<Self> {
        let weight = Param::from_tensor(weights.tensor("weight", [output, input, 3, 3])?);
        let bias = Param::from_tensor(weights.tensor("bias", [output])?);
        Ok(Self { weight, bias })
    }

    /// `[B, in, h, w]` → `[B, out, h/2, w/2]`, halves rounded up, after GELU.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new([2, 2], [1, 1], [1, 1], 1);
        gelu(conv2d(x, self.weight.val(), Some(self.bias.val()), options))
    }
}

impl ConvStem {
    pub(crate) fn load(weights: &Weights, config: &AudioConfig) -> Result<Self> {
        let channels = config.downsample_hidden_size;
        let bands = (0..3).fold(config.num_mel_bins, |n, _| n.div_ceil(2));
        Ok(Self {
            conv2d1: Conv::load(&weights.at("conv2d1"), [1, channels])?,
            conv2d2: Conv::load(&weights.at("conv2d2"), [channels, channels])?,
            conv2d3: Conv::load(&weights.at("conv2d3"), [channels, channels])?,
            conv_out: Linear::load(&weights.at("conv_out"), [config.d_model, channels * bands], false)?,
        })
    }

    /// # Shapes
    /// Chunks `[B, M, F]` → rows `[B, F/8, D]`.
    pub(crate) fn forward(&self, chunks: Tensor<3>, probe: &mut dyn AutProbe) -> Tensor<3> {
        let x = chunks.unsqueeze_dim(1); // [B, 1, M, F]
        let x = self.conv2d3.forward(self.conv2d2.forward(self.conv2d1.forward(x))); // [B, C, M/8, F/8]
        probe.conv(&x);
        let [batch, channels, bands, time] = x.dims();
        // Channel-major: index = channel * bands + band.
        let x = x.permute([0, 3, 1, 2]).reshape([batch, time, channels * bands]);
        let x = self.conv_out.forward(x); // [B, F/8, D]
        probe.conv_out(&x);
        x
    }
}
