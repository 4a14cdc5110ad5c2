use burn::module::Module;
use checkpoint::Weights;
use nn::{Activation, EncoderLayer, Engine, LayerNorm, Linear, QkvProjection};
use omni_core::Result;

use crate::config::EPS;
use crate::config::VisionConfig;

/// One pre-norm transformer block: attention inside a frame, then two linear layers.
#[derive(Module, Debug)]
pub(crate) struct VisionBlock {
    norm1: LayerNorm,
    attn: VisionAttention,
    norm2: LayerNorm,
    mlp: VisionMlp,
}

#[derive(Module, Debug)]
struct VisionAttention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

#[derive(Module, Debug)]
struct VisionMlp {
    linear_fc1: Linear,
    linear_fc2: Linear,
}

impl VisionBlock {
    pub(crate) fn load(weights: &Weights, config: &VisionConfig) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (attn, mlp) = (weights.at("attn"), weights.at("mlp"));
        Ok(Self {
            norm1: LayerNorm::load(&weights.at("norm1"), width, EPS)?,
            attn: VisionAttention {
                qkv: Linear::load(&attn.at("qkv"), [3 * width, width], true)?,
                proj: Linear::load(&attn.at("proj"), [width, width], true)?,
                heads: config.num_heads,
            },
            norm2: LayerNorm::load(&weights.at("norm2"), width, EPS)?,
            mlp: VisionMlp {
                linear_fc1: Linear::load(&mlp.at("linear_fc1"), [inner, width], true)?,
                linear_fc2: Linear::load(&mlp.at("linear_fc2"), [width, inner], true)?,
            },
        })
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// `[P, D]` → `[P, D]`; `frames` are lengths that add up to `P`.
    pub(crate) fn forward<E: Engine>(&self, e: &E, x: E::Rows, rotation: &E::Rotation, frames: &[usize]) -> E::Rows {
        let layer = EncoderLayer {
            norms: [&self.norm1, &self.norm2],
            qkv: QkvProjection::Joined(&self.attn.qkv),
            out: &self.attn.proj,
            mlp: [&self.mlp.linear_fc1, &self.mlp.linear_fc2],
            activation: Activation::GeluTanh,
            heads: self.attn.heads,
        };
        layer.forward(e, x, frames, Some(rotation))
    }
}
