use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::gelu;
use checkpoint::Weights;
use nn::{LayerNorm, Linear};
use omni_core::Result;

use crate::causal_conv::{CausalConv, ConvSpec, History, TransposedConv};
use crate::probe::VocoderProbe;

/// One upsampling stage: transposed convolution, then a ConvNeXt block.
#[derive(Module, Debug)]
pub(crate) struct Upsample {
    transposed: TransposedConv,
    block: ConvNext,
}

impl Upsample {
    pub(crate) fn load(weights: &Weights, width: usize, factor: usize) -> Result<Self> {
        Ok(Self {
            transposed: TransposedConv::load(&weights.at("0.conv"), [width, width, factor], factor)?,
            block: ConvNext::load(&weights.at("1"), width)?,
        })
    }

    /// `[B, D, T]` → `[B, D, T * factor]`.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        history: &mut History,
        index: usize,
        probe: &mut dyn VocoderProbe,
    ) -> Tensor<3> {
        let x = self.transposed.forward(x, &mut History::None, None);
        probe.part("upsample_a", index, &x);
        let x = self.block.forward(x, history);
        probe.part("upsample_b", index, &x);
        x
    }
}

/// Depthwise convolution, LayerNorm over channels, two linear layers with exact GELU, layer scale, residual.
#[derive(Module, Debug)]
struct ConvNext {
    dwconv: CausalConv,
    norm: LayerNorm,
    pwconv1: Linear,
    pwconv2: Linear,
    gamma: Param<Tensor<1>>,
}

const NORM_EPS: f64 = 1e-6;

impl ConvNext {
    fn load(weights: &Weights, width: usize) -> Result<Self> {
        let depthwise = ConvSpec { groups: width, ..ConvSpec::new(width, width, 7) };
        Ok(Self {
            dwconv: CausalConv::load(&weights.at("dwconv.conv"), depthwise)?,
            norm: LayerNorm::load(&weights.at("norm"), width, NORM_EPS)?,
            pwconv1: Linear::load(&weights.at("pwconv1"), [4 * width, width], true)?,
            pwconv2: Linear::load(&weights.at("pwconv2"), [width, 4 * width], true)?,
            gamma: Param::from_tensor(weights.tensor("gamma", [width])?),
        })
    }

    fn forward(&self, x: Tensor<3>, history: &mut History) -> Tensor<3> {
        let h = self.dwconv.forward(x.clone(), history, None, None).swap_dims(1, 2); // [B, T, D]
        let h = self.pwconv2.forward(gelu(self.pwconv1.forward(self.norm.forward(h))));
        x + (h * self.gamma.val().unsqueeze()).swap_dims(1, 2)
    }
}
