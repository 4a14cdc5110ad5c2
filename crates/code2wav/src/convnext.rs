use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::gelu;
use checkpoint::Weights;
use nn::{LayerNorm, Linear, pieces};
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

    /// Steps for each one.
    pub(crate) fn factor(&self) -> usize {
        self.transposed.stride()
    }

    /// Several streams beside each other, each with its history and its length afterwards:
    /// `[B, D, sum T]` → `[B, D, sum T * factor]`.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        streams: Vec<(&mut History, usize)>,
        index: usize,
        probe: &mut dyn VocoderProbe,
    ) -> Tensor<3> {
        // Nothing overlaps, neither steps nor streams.
        let x = self.transposed.forward(x, &mut History::None, None);
        probe.part("upsample_a", index, &x);
        let x = self.block.forward(x, streams);
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

    /// `[B, D, sum T]` → `[B, D, sum T]`.
    fn forward(&self, x: Tensor<3>, streams: Vec<(&mut History, usize)>) -> Tensor<3> {
        let (histories, times): (Vec<_>, Vec<_>) = streams.into_iter().unzip();
        let each = pieces(x.clone(), 2, &times).into_iter().zip(histories);
        let each = each.map(|(x, history)| self.dwconv.forward(x, history, None, None));
        let h = Tensor::cat(each.collect(), 2).swap_dims(1, 2); // [B, sum T, D]
        let h = self.pwconv2.forward(gelu(self.pwconv1.forward(self.norm.forward(h))));
        x + (h * self.gamma.val().unsqueeze()).swap_dims(1, 2)
    }
}
