use burn::module::Module;
use burn::tensor::Tensor;
use checkpoint::{VisionConfig, Weights};
use nn::{EncoderLayer, EncoderMemory, LayerNorm, Linear, Then, gelu_tanh, window_attention};
use omni_core::Result;

use crate::config::EPS;
use crate::rotary2d::Rotary2d;

/// One transformer block: attention inside a frame, then two linear layers, each behind a norm.
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

    /// # Shapes
    /// `[P, D]` → `[P, D]`; `frames` are lengths that add up to `P`.
    pub(crate) fn forward(&self, x: Tensor<2>, rotary: &Rotary2d, frames: &[usize]) -> Tensor<2> {
        let x = x.clone() + self.attn.forward(self.norm1.forward(x), rotary, frames);
        let inner = gelu_tanh(self.mlp.linear_fc1.rows(self.norm2.forward(x.clone())));
        x + self.mlp.linear_fc2.rows(inner)
    }

    /// As [`VisionBlock::forward`], in place in host memory; `rotation` are cosines and sines `[P, Dh / 2]`.
    pub(crate) fn on_host(&self, x: &mut [f32], rotation: [&[f32]; 2], frames: &[usize], memory: &mut EncoderMemory) {
        let layer = EncoderLayer {
            norms: [&self.norm1, &self.norm2],
            qkv: &[&self.attn.qkv],
            out: &self.attn.proj,
            mlp: [&self.mlp.linear_fc1, &self.mlp.linear_fc2],
            activation: Then::GeluTanh,
            heads: self.attn.heads,
        };
        layer.forward(x, frames, Some(rotation), memory);
    }
}

impl VisionAttention {
    fn forward(&self, x: Tensor<2>, rotary: &Rotary2d, frames: &[usize]) -> Tensor<2> {
        let [patches, width] = x.dims();
        let qkv = self.qkv.rows(x); // [P, 3 * D]
        let [q, k, v] = [0, 1, 2]
            .map(|i| qkv.clone().narrow(1, i * width, width).reshape([patches, self.heads, width / self.heads]));
        self.proj.rows(window_attention([rotary.apply(q), rotary.apply(k), v], frames))
    }
}
