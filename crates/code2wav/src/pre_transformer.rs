use burn::module::Module;
use checkpoint::Weights;
use nn::{Attention, AttentionSpec, Engine, GatedMlp, KvCache, RmsNorm, Run, RunLength, Vector};
use omni_core::{Positions, Result};
use tm_rope::{Rope, RopeConfig};

use crate::config::Code2WavConfig;
use crate::probe::VocoderProbe;
use crate::probe::show_rows;

/// Transformer over codec frames with a sliding window.
#[derive(Module, Debug)]
pub(crate) struct PreTransformer {
    layers: Vec<Layer>,
    norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
    window: usize,
}

/// Keys and values of the frames a later frame still sees, and the number of frames so far.
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

    /// The state before the first step, with a cache like the one given for each layer.
    pub(crate) fn start(&self, cache: KvCache) -> PreTransformerState {
        PreTransformerState { caches: vec![cache; self.layers.len()], frames: 0 }
    }

    /// Runs the transformer on new frames of consecutive streams, each given by its state and its number of frames:
    /// `[N, D]` → `[N, D]`.
    pub(crate) fn forward<E: Engine>(
        &self,
        e: &E,
        mut x: E::Rows,
        streams: &mut [(&mut PreTransformerState, usize)],
        probe: &mut Option<&mut dyn VocoderProbe>,
    ) -> E::Rows {
        let step = self.step(e, streams);
        for (index, layer) in self.layers.iter().enumerate() {
            let runs = streams.iter_mut();
            let mut runs: Vec<Run> =
                runs.map(|(state, frames)| Run { cache: &mut state.caches[index], rows: *frames }).collect();
            x = layer.forward(e, x, (&step, &mut runs));
            show_rows(e, probe, "layer", index, &x, false);
        }
        streams.iter_mut().for_each(|(state, frames)| state.frames += *frames);
        e.rms_norm(&x, &self.norm)
    }

    /// What all layers of a step share.
    fn step<E: Engine>(&self, e: &E, streams: &[(&mut PreTransformerState, usize)]) -> E::Step {
        let [mut cos, mut sin] = [Vec::new(), Vec::new()];
        for (state, frames) in streams {
            let tables = self.rope.tables(&Positions::sequence(state.frames as f32, *frames));
            let [stream_cos, stream_sin] = tables;
            cos.extend(stream_cos);
            sin.extend(stream_sin);
        }
        let length = |(state, frames): &(&mut PreTransformerState, usize)| RunLength {
            queries: *frames,
            past: state.caches.first().map_or(0, KvCache::len),
        };
        e.step([cos, sin], &streams.iter().map(length).collect::<Vec<_>>(), Some(self.window))
    }
}

#[derive(Module, Debug)]
struct Layer {
    self_attn: Attention,
    mlp: GatedMlp,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    self_attn_layer_scale: Scale,
    mlp_layer_scale: Scale,
}

/// One factor per channel.
#[derive(Module, Debug)]
struct Scale {
    scale: Vector,
}

impl Layer {
    fn load(weights: &Weights, config: &Code2WavConfig) -> Result<Self> {
        let width = config.hidden_size;
        let norm = |name| RmsNorm::load(&weights.at(name), width, config.rms_norm_eps);
        let scale = |name| Vector::load(&weights.at(name), "scale", width).map(|scale| Scale { scale });
        let attention = AttentionSpec {
            width,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim(),
            head_norm: None,
            window: Some(config.sliding_window),
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

    fn forward<E: Engine>(&self, e: &E, x: E::Rows, step: (&E::Step, &mut [Run])) -> E::Rows {
        let h = e.rms_norm(&x, &self.input_layernorm);
        let x = self.self_attn.forward(e, x, h, step, Some(&self.self_attn_layer_scale.scale));
        let mut h = e.rms_norm(&x, &self.post_attention_layernorm);
        self.mlp.add_to(e, x, &mut h, Some(&self.mlp_layer_scale.scale))
    }
}
