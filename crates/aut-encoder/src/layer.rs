use burn::module::Module;
use checkpoint::Weights;
use nn::{Activation, EncoderLayer, Engine, LayerNorm, Linear, QkvProjection};
use omni_core::Result;

use crate::config::AudioConfig;

/// Whisper's and PyTorch's default.
pub(crate) const EPS: f64 = 1e-5;

/// One pre-norm transformer layer: attention inside windows, then two linear layers.
#[derive(Module, Debug)]
pub(crate) struct AutLayer {
    self_attn: SelfAttention,
    self_attn_layer_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    final_layer_norm: LayerNorm,
}

#[derive(Module, Debug)]
struct SelfAttention {
    qkv: Projections,
    out_proj: Linear,
    heads: usize,
}

/// Queries, keys and values: three layers on disk, one on a device where nothing is trained.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One per layer, whose matrices are larger by far.
enum Projections {
    Split([Linear; 3]),
    Joined(Linear),
}

impl AutLayer {
    pub(crate) fn load(weights: &Weights, config: &AudioConfig) -> Result<Self> {
        let (width, inner) = (config.d_model, config.encoder_ffn_dim);
        Ok(Self {
            self_attn: SelfAttention::load(&weights.at("self_attn"), config)?,
            self_attn_layer_norm: LayerNorm::load(&weights.at("self_attn_layer_norm"), width, EPS)?,
            fc1: Linear::load(&weights.at("fc1"), [inner, width], true)?,
            fc2: Linear::load(&weights.at("fc2"), [width, inner], true)?,
            final_layer_norm: LayerNorm::load(&weights.at("final_layer_norm"), width, EPS)?,
        })
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, D]`; `windows` are lengths that add up to `N`.
    pub(crate) fn forward<E: Engine>(&self, e: &E, x: E::Rows, windows: &[usize]) -> E::Rows {
        let SelfAttention { qkv, out_proj, heads } = &self.self_attn;
        let layer = EncoderLayer {
            norms: [&self.self_attn_layer_norm, &self.final_layer_norm],
            qkv: match qkv {
                Projections::Split(layers) => QkvProjection::Split(layers.each_ref()),
                Projections::Joined(layer) => QkvProjection::Joined(layer),
            },
            out: out_proj,
            mlp: [&self.fc1, &self.fc2],
            activation: Activation::Gelu,
            heads: *heads,
        };
        layer.forward(e, x, windows, None)
    }
}

impl SelfAttention {
    fn load(weights: &Weights, config: &AudioConfig) -> Result<Self> {
        let square = [config.d_model; 2];
        let linear = |name| Linear::load(&weights.at(name), square, true);
        let layers = [linear("q_proj")?, linear("k_proj")?, linear("v_proj")?];
        // What records the names of tensors has no values to join.
        let joined = if weights.is_recording() { None } else { Linear::joined(&layers.each_ref()) };
        Ok(Self {
            qkv: joined.map_or(Projections::Split(layers), Projections::Joined),
            out_proj: linear("out_proj")?,
            heads: config.encoder_attention_heads,
        })
    }
}
