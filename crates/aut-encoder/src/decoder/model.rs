use burn::module::Module;
use burn::tensor::Tensor;
use checkpoint::{Checkpoint, Weights};
use nn::{AnyEngine, Embedding, Engine, LayerNorm, last_rows, on_engine};
use omni_core::{Dtype, Error, Place, Result};

use super::config::{AutDecoderConfig, DECODER_FILE};
use super::layer::DecoderLayer;
use super::state::{AutDecoderRun, AutDecoderState};
use crate::AudioConfig;
use crate::conv_stem::tensor_of;
use crate::layer::EPS;
use crate::positions::sinusoids_from;

/// A causal transformer with cross-attention to the encoder's rows; its output is tied to its embedding.
#[derive(Module, Debug)]
pub struct AutDecoder {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    layer_norm: LayerNorm,
    #[module(skip)]
    engine: AnyEngine,
}

impl AutDecoder {
    /// Loads the decoder that lies beside a checkpoint, in [`DECODER_FILE`]; `vocab_size` is that of the checkpoint's tokens.
    ///
    /// # Errors
    /// Those of [`Checkpoint::companion`], [`AutDecoderConfig::of_file`] and [`Checkpoint::check`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, vocab_size: usize, place: &Place, dtype: Dtype) -> Result<Self> {
        let audio: AudioConfig = checkpoint.config().section()?;
        let file = checkpoint.companion(DECODER_FILE)?;
        let config = AutDecoderConfig::of_file(&file, vocab_size)?;
        file.load(place, dtype, |_| true, |weights| Self::load(weights, &config, &audio))
    }

    /// Reads `decoder.*`; `weights` stands at the file's root.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, config: &AutDecoderConfig, audio: &AudioConfig) -> Result<Self> {
        let weights = weights.at("decoder");
        let layer = |index| DecoderLayer::load(&weights.at("layers").at(index), audio);
        Ok(Self {
            embed_tokens: Embedding::load(&weights.at("embed_tokens"), [config.vocab_size, audio.d_model])?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            layer_norm: LayerNorm::load(&weights.at("layer_norm"), audio.d_model, EPS)?,
            engine: AnyEngine::of(&weights),
        })
    }

    /// Ids of the vocabulary `V`.
    pub fn vocab_size(&self) -> usize {
        self.embed_tokens.rows()
    }

    /// Begins a text for each sound, given by the encoder's rows `[S, D]` of it
    /// ([`AutEncoder::hidden_states`](crate::AutEncoder::hidden_states)).
    pub fn begin(&self, sounds: &[Tensor<2>]) -> Vec<AutDecoderState> {
        on_engine!(self.engine, |e| sounds.iter().map(|sound| self.begin_one(e, sound)).collect())
    }

    fn begin_one<E: Engine>(&self, e: &E, sound: &Tensor<2>) -> AutDecoderState {
        let mut rows = e.rows(&[sound]);
        AutDecoderState { layers: self.layers.iter().map(|layer| layer.begin(e, &mut rows)).collect(), tokens: 0 }
    }

    /// States of all new tokens, after the last norm, one text after another; [`AutDecoder::logits`] predicts the next tokens from
    /// them.
    ///
    /// # Shapes
    /// → `[N, D]`.
    ///
    /// # Errors
    /// [`Error::Request`] for a run without ids, or with an id beyond the vocabulary.
    pub fn hidden_states(&self, runs: &mut [AutDecoderRun]) -> Result<Tensor<2>> {
        self.check(runs)?;
        Ok(on_engine!(self.engine, |e| {
            let x = self.forward(e, runs);
            e.tensor(&x, 0..e.shape(&x)[0])
        }))
    }

    /// Logits of the token behind each of the given states.
    ///
    /// # Shapes
    /// `[n, D]` → `[n, V]`.
    pub fn logits(&self, hidden: &Tensor<2>) -> Tensor<2> {
        on_engine!(self.engine, |e| {
            let logits = self.head(e, e.rows(&[hidden]));
            e.tensor(&logits, 0..e.shape(&logits)[0])
        })
    }

    /// Appends tokens to several texts and returns the logits `[V]` of the token behind each, in host memory.
    ///
    /// # Errors
    /// Those of [`AutDecoder::hidden_states`].
    pub fn next(&self, runs: &mut [AutDecoderRun]) -> Result<Vec<Vec<f32>>> {
        self.check(runs)?;
        let lengths: Vec<usize> = runs.iter().map(|run| run.ids.len()).collect();
        let logits = on_engine!(self.engine, |e| {
            let x = self.forward(e, runs);
            e.values(self.head(e, e.select(&x, &last_rows(&lengths))))
        });
        Ok(logits.chunks(self.vocab_size()).map(<[f32]>::to_vec).collect())
    }

    fn check(&self, runs: &[AutDecoderRun]) -> Result<()> {
        let vocabulary = self.vocab_size();
        if runs.iter().any(|run| run.ids.is_empty()) {
            return Err(Error::Request("a text without tokens, expected one or more".into()));
        }
        match runs.iter().flat_map(|run| run.ids).find(|id| **id as usize >= vocabulary) {
            Some(id) => Err(Error::Request(format!("id {id} is beyond the decoder's vocabulary of {vocabulary}"))),
            None => Ok(()),
        }
    }

    /// `[N, D]`.
    fn forward<E: Engine>(&self, e: &E, runs: &mut [AutDecoderRun]) -> E::Rows {
        let ids: Vec<u32> = runs.iter().flat_map(|run| run.ids).copied().collect();
        let width = self.embed_tokens.width();
        let positions = runs.iter().flat_map(|run| sinusoids_from(run.state.tokens, run.ids.len(), width)).collect();
        let positions = tensor_of(positions, width, &self.engine.tensors().0);
        let mut x = e.add(e.embed(&self.embed_tokens, &e.ids(&ids)), &e.rows(&[&positions]));
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(e, x, runs, index);
        }
        runs.iter_mut().for_each(|run| run.state.tokens += run.ids.len());
        e.layer_norm(&x, &self.layer_norm)
    }

    fn head<E: Engine>(&self, e: &E, mut x: E::Rows) -> E::Rows {
        let [logits] = e.linear(&mut x, [&self.embed_tokens.tied()]);
        logits
    }
}
