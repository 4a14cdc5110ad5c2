use burn::module::Module;
use checkpoint::Weights;
use nn::{Activation, Attention, AttentionSpec, Engine, KvCache, LayerNorm, Linear, Run, RunLength, Vector};
use omni_core::{Positions, Result};
use tm_rope::{Rope, RopeConfig};

use crate::config::MimiConfig;

/// Causal transformer with a sliding window, without a last norm.
#[derive(Module, Debug)]
pub(crate) struct Transformer {
    layers: Vec<Layer>,
    #[module(skip)]
    rope: Rope,
    window: usize,
}

/// Keys and values that a later row still sees, and the number of rows so far.
#[derive(Debug, Clone)]
pub(crate) struct TransformerState {
    caches: Vec<KvCache>,
    rows: usize,
}

impl Transformer {
    pub(crate) fn load(weights: &Weights, config: &MimiConfig) -> Result<Self> {
        let layers = (0..config.num_hidden_layers).map(|i| Layer::load(&weights.at(format!("layers.{i}")), config));
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            rope: Rope::new(&RopeConfig::plain(config.head_dim(), config.rope_theta())),
            window: config.sliding_window,
        })
    }

    pub(crate) fn start(&self) -> TransformerState {
        TransformerState { caches: vec![KvCache::default(); self.layers.len()], rows: 0 }
    }

    /// Runs the transformer on the next rows of consecutive streams, each given by its state and its number of rows, at least 1:
    /// `[N, D]` → `[N, D]`.
    pub(crate) fn forward<E: Engine>(
        &self,
        e: &E,
        mut x: E::Rows,
        streams: &mut [(&mut TransformerState, usize)],
    ) -> E::Rows {
        let step = self.step(e, streams);
        for (index, layer) in self.layers.iter().enumerate() {
            let runs = streams.iter_mut();
            let mut runs: Vec<Run> =
                runs.map(|(state, rows)| Run { cache: &mut state.caches[index], rows: *rows }).collect();
            x = layer.forward(e, x, (&step, &mut runs));
        }
        streams.iter_mut().for_each(|(state, rows)| state.rows += *rows);
        x
    }

    /// What all layers of a step share.
    fn step<E: Engine>(&self, e: &E, streams: &[(&mut TransformerState, usize)]) -> E::Step {
        let [mut cos, mut sin] = [Vec::new(), Vec::new()];
        for (state, rows) in streams {
            let [stream_cos, stream_sin] = self.rope.tables(&Positions::sequence(state.rows as f32, *rows));
            cos.extend(stream_cos);
            sin.extend(stream_sin);
        }
        let length = |(state, rows): &(&mut TransformerState, usize)| RunLength {
            queries: *rows,
            past: state.caches.first().map_or(0, KvCache::len),
        };
        e.step([cos, sin], &streams.iter().map(length).collect::<Vec<_>>(), Some(self.window))
    }
}

/// Pre-norm layer: attention, then two linear layers with exact GELU, each scaled per channel.
#[derive(Module, Debug)]
struct Layer {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: LayerNorm,
    post_attention_layernorm: LayerNorm,
    self_attn_layer_scale: Scale,
    mlp_layer_scale: Scale,
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

/// One factor per channel.
#[derive(Module, Debug)]
struct Scale {
    scale: Vector,
}

impl Layer {
    fn load(weights: &Weights, config: &MimiConfig) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |name| LayerNorm::load(&weights.at(name), width, config.norm_eps);
        let scale = |name| Vector::load(&weights.at(name), "scale", width).map(|scale| Scale { scale });
        let linear = |name, shape| Linear::load(&weights.at(name), shape, false);
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
            mlp: Mlp { fc1: linear("mlp.fc1", [inner, width])?, fc2: linear("mlp.fc2", [width, inner])? },
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            self_attn_layer_scale: scale("self_attn_layer_scale")?,
            mlp_layer_scale: scale("mlp_layer_scale")?,
        })
    }

    fn forward<E: Engine>(&self, e: &E, x: E::Rows, step: (&E::Step, &mut [Run])) -> E::Rows {
        let h = e.layer_norm(&x, &self.input_layernorm);
        let x = self.self_attn.forward(e, x, h, step, Some(&self.self_attn_layer_scale.scale));
        let mut h = e.layer_norm(&x, &self.post_attention_layernorm);
        let mut inner = e.linear_act(&mut h, &self.mlp.fc1, Activation::Gelu); // [N, inner]
        e.add_linear(x, &mut inner, &self.mlp.fc2, Some(&self.mlp_layer_scale.scale))
    }
}
