use burn::module::Module;
use checkpoint::Weights;
use nn::{Activation, LayerNorm, Linear, Vector};
use omni_core::Result;

use crate::conv::{Depthwise, UpsampleConv};
use crate::engine::VocoderEngine;
use crate::history::History;
use crate::probe::VocoderProbe;
use crate::probe::show_rows;

/// One upsampling stage: transposed convolution, then a ConvNeXt block.
#[derive(Module, Debug)]
pub(crate) struct Upsample {
    transposed: UpsampleConv,
    block: ConvNext,
    factor: usize,
}

impl Upsample {
    pub(crate) fn load(weights: &Weights, width: usize, factor: usize) -> Result<Self> {
        Ok(Self {
            transposed: UpsampleConv::load(&weights.at("0.conv"), width, factor)?,
            block: ConvNext::load(&weights.at("1"), width)?,
            factor,
        })
    }

    /// Output rows per input row.
    pub(crate) fn factor(&self) -> usize {
        self.factor
    }

    /// Upsamples the rows of consecutive streams, each given by its history and its number of output rows:
    /// `[N, D]` → `[N * factor, D]`.
    pub(crate) fn forward<E: VocoderEngine>(
        &self,
        e: &E,
        mut x: E::Rows,
        streams: &mut [(&mut History, usize)],
        index: usize,
        probe: &mut Option<&mut dyn VocoderProbe>,
    ) -> E::Rows {
        let x = e.upsample(&mut x, &self.transposed);
        show_rows(e, probe, "upsample_a", index, &x, true);
        let x = self.block.forward(e, x, streams);
        show_rows(e, probe, "upsample_b", index, &x, true);
        x
    }
}

/// Depthwise convolution, LayerNorm over channels, two linear layers with exact GELU, layer scale, residual.
#[derive(Module, Debug)]
struct ConvNext {
    dwconv: Depthwise,
    norm: LayerNorm,
    pwconv1: Linear,
    pwconv2: Linear,
    gamma: Vector,
}

const NORM_EPS: f64 = 1e-6;
const KERNEL: usize = 7;

impl ConvNext {
    fn load(weights: &Weights, width: usize) -> Result<Self> {
        Ok(Self {
            dwconv: Depthwise::load(&weights.at("dwconv.conv"), width, KERNEL)?,
            norm: LayerNorm::load(&weights.at("norm"), width, NORM_EPS)?,
            pwconv1: Linear::load(&weights.at("pwconv1"), [4 * width, width], true)?,
            pwconv2: Linear::load(&weights.at("pwconv2"), [width, 4 * width], true)?,
            gamma: Vector::load(weights, "gamma", width)?,
        })
    }

    /// `[N, D]` → `[N, D]`.
    fn forward<E: VocoderEngine>(&self, e: &E, x: E::Rows, streams: &mut [(&mut History, usize)]) -> E::Rows {
        let h = e.depthwise(&x, &self.dwconv, streams);
        let mut h = e.layer_norm(&h, &self.norm);
        let mut inner = e.linear_act(&mut h, &self.pwconv1, Activation::Gelu); // [N, 4 * D]
        e.add_linear(x, &mut inner, &self.pwconv2, Some(&self.gamma))
    }
}
