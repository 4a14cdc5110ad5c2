use burn::module::Module;
use checkpoint::Weights;
use nn::{Activation, Engine, KvCache, LayerNorm, Linear, Run};
use omni_core::Result;

use super::attention::Attention;
use super::state::{AutDecoderRun, LayerState};
use crate::AudioConfig;
use crate::layer::EPS;

/// Self-attention, cross-attention and two linear layers, each behind a norm.
#[derive(Module, Debug)]
pub(super) struct DecoderLayer {
    self_attn: Attention,
    self_attn_layer_norm: LayerNorm,
    encoder_attn: Attention,
    encoder_attn_layer_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    final_layer_norm: LayerNorm,
}

impl DecoderLayer {
    pub(super) fn load(weights: &Weights, audio: &AudioConfig) -> Result<Self> {
        let (width, inner) = (audio.d_model, audio.encoder_ffn_dim);
        let norm = |name| LayerNorm::load(&weights.at(name), width, EPS);
        let attention = |name| Attention::load(&weights.at(name), width, audio.encoder_attention_heads);
        Ok(Self {
            self_attn: attention("self_attn")?,
            self_attn_layer_norm: norm("self_attn_layer_norm")?,
            encoder_attn: attention("encoder_attn")?,
            encoder_attn_layer_norm: norm("encoder_attn_layer_norm")?,
            fc1: Linear::load(&weights.at("fc1"), [inner, width], true)?,
            fc2: Linear::load(&weights.at("fc2"), [width, inner], true)?,
            final_layer_norm: norm("final_layer_norm")?,
        })
    }

    /// The state before a text, from the rows `[S, D]` of its sound.
    pub(super) fn begin<E: Engine>(&self, e: &E, sound: &mut E::Rows) -> LayerState {
        LayerState { text: KvCache::default(), sound: self.encoder_attn.keys(e, sound) }
    }

    /// Applies the layer to the new tokens of several texts; `index` is its place among the layers.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, D]`.
    pub(super) fn forward<E: Engine>(&self, e: &E, x: E::Rows, texts: &mut [AutDecoderRun], index: usize) -> E::Rows {
        let h = e.layer_norm(&x, &self.self_attn_layer_norm);
        let x = self.self_attn.causal(e, x, h, &mut runs(texts, index, |state| &mut state.text));
        let h = e.layer_norm(&x, &self.encoder_attn_layer_norm);
        let x = self.encoder_attn.cross(e, x, h, &mut runs(texts, index, |state| &mut state.sound));
        let mut h = e.layer_norm(&x, &self.final_layer_norm);
        let mut inner = e.linear_act(&mut h, &self.fc1, Activation::Gelu); // [N, inner]
        e.add_linear(x, &mut inner, &self.fc2, None)
    }
}

/// One of the two caches of each text, with its number of new tokens.
fn runs<'a>(
    texts: &'a mut [AutDecoderRun],
    index: usize,
    cache: impl Fn(&'a mut LayerState) -> &'a mut KvCache,
) -> Vec<Run<'a>> {
    let run = |text: &'a mut AutDecoderRun| Run { rows: text.ids.len(), cache: cache(&mut text.state.layers[index]) };
    texts.iter_mut().map(run).collect()
}
