use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use checkpoint::{Code2WavConfig, Weights};
use nn::{Attention, AttentionRun, AttentionSpec, GatedMlp, KvCache, Mask, MaskSpec, RmsNorm};
use omni_core::{Dtype, Positions, Result};
use tm_rope::{Rope, RopeConfig, Rotation};

use crate::probe::VocoderProbe;

/// Transformer over codec frames with a sliding window.
#[derive(Module, Debug)]
pub(crate) struct PreTransformer {
    layers: Vec<Layer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
    window: usize,
}

/// Keys and values of the frames a later frame still sees, and how many frames have gone by.
#[derive(Debug, Clone)]
pub(crate) struct PreTransformerState {
    caches: Vec<KvCache>,
    pub(crate) frames: usize,
}

impl PreTransformer {
    pub(crate) fn load(weights: &Weights, config: &Code2WavConfig) -> Result<Self> {
        let layers = (0..config.num_hidden_layers).map(|i| Layer::load(&weights.at(format!("layers.{i}")), config));
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            norm: RmsNorm::load(&weights.at("norm"), config.hidden_size, config.rms_norm_eps)?,
            rope: Rope::new(&RopeConfig::plain(config.head_dim(), config.rope_theta())),
            window: config.sliding_window,
        })
    }

    pub(crate) fn start(&self) -> PreTransformerState {
        PreTransformerState { caches: vec![KvCache::window(self.window); self.layers.len()], frames: 0 }
    }

    /// Frames of several streams behind each other, so many of each: `[B, sum F, D]` → `[B, sum F, D]`.
    pub(crate) fn forward(
        &self,
        mut x: Tensor<3>,
        streams: &mut [(&mut PreTransformerState, usize)],
        dtype: Dtype,
        probe: &mut dyn VocoderProbe,
    ) -> Tensor<3> {
        let (batch, device) = (x.dims()[0], x.device());
        let steps = streams.iter().map(|(state, frames)| self.step(state, [batch, *frames], &device, dtype));
        let steps: Vec<_> = steps.collect();
        for (index, layer) in self.layers.iter().enumerate() {
            let runs = streams.iter_mut().zip(&steps);
            let runs = runs.map(|((state, _), (rotation, mask))| {
                let cache = &mut state.caches[index];
                AttentionRun { rotation, cache, mask }
            });
            x = layer.forward(x, runs.collect());
            probe.part("layer", index, &x);
        }
        streams.iter_mut().for_each(|(state, frames)| state.frames += *frames);
        self.norm.forward(x)
    }

    /// What all layers of one stream's step share.
    fn step(
        &self,
        state: &PreTransformerState,
        [batch, frames]: [usize; 2],
        device: &Device,
        dtype: Dtype,
    ) -> (Rotation, Mask) {
        let at = (0..batch * frames).map(|i| (state.frames + i % frames) as f32).collect();
        let rotation = self.rope.rotation(&Positions::uniform(batch, at), device, dtype);
        let keys = state.caches.first().map_or(0, KvCache::len) + frames;
        let spec = MaskSpec { queries: frames, keys, window: Some(self.window), left_padding: &[] };
        (rotation, Mask::new(&spec, device))
    }
}

#[derive(Module, Debug)]
struct Layer {
    self_attn: Attention,
    mlp: GatedMlp,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    self_attn_layer_scale: Param<Tensor<1>>,
    mlp_layer_scale: Param<Tensor<1>>,
}

impl Layer {
    fn load(weights: &Weights, config: &Code2WavConfig) -> Result<Self> {
        let width = config.hidden_size;
        let norm = |name| RmsNorm::load(&weights.at(name), width, config.rms_norm_eps);
        let scale = |name| weights.at(name).tensor("scale", [width]).map(Param::from_tensor);
        let attention = AttentionSpec {
            width,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim(),
            head_norm: None,
        };
        Ok(Self {
            self_attn: Attention::load(&weights.at("self_attn"), &attention)?,
            mlp: GatedMlp::load(&weights.at("mlp"), width, config.intermediate_size)?,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            self_attn_layer_scale: scale("self_attn_layer_scale")?,
            mlp_layer_scale: scale("mlp_layer_scale")?,
        })
    }

    fn forward(&self, x: Tensor<3>, runs: Vec<AttentionRun>) -> Tensor<3> {
        let h = self.self_attn.forward_many(self.input_layernorm.forward(x.clone()), runs);
        let x = x + h * self.self_attn_layer_scale.val().unsqueeze();
        let h = self.mlp.forward(self.post_attention_layernorm.forward(x.clone()));
        x + h * self.mlp_layer_scale.val().unsqueeze()
    }
}
