use burn::module::Module;
use burn::tensor::{Int, Tensor};
use checkpoint::{CodePredictorConfig, OmniConfig, Weights};
use nn::{Decoder, Embedding, Linear};
use omni_core::Result;

use crate::config::predictor_spec;

/// `Q − 1` embeddings and heads around a small decoder. Table and head `i` belong to codebook `i + 1`.
#[derive(Module, Debug)]
pub struct CodePredictor {
    pub(crate) codec_embedding: Vec<Embedding>,
    pub(crate) model: Decoder,
    pub(crate) lm_head: Vec<Linear>,
}

impl CodePredictor {
    /// Reads `talker.code_predictor.*`; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// As [`Weights::tensor`], or [`omni_core::Error::NotLoaded`] for a checkpoint without audio output.
    pub fn load(weights: &Weights, config: &OmniConfig) -> Result<Self> {
        Self::load_parts(&weights.at("talker.code_predictor"), &config.talker()?.code_predictor)
    }

    /// Reads `model.*` and `lm_head.*`.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load_parts(weights: &Weights, config: &CodePredictorConfig) -> Result<Self> {
        let table = [config.vocab_size, config.hidden_size];
        let model = weights.at("model");
        let groups = 0..config.num_code_groups - 1;
        let embeddings = groups.clone().map(|i| Embedding::load(&model.at(format!("codec_embedding.{i}")), table));
        let heads = groups.map(|i| Linear::load(&weights.at(format!("lm_head.{i}")), table, false));
        Ok(Self {
            codec_embedding: embeddings.collect::<Result<_>>()?,
            lm_head: heads.collect::<Result<_>>()?,
            model: Decoder::load(&model, &predictor_spec(config))?,
        })
    }

    /// Codebooks `Q`, the first included.
    pub fn codebooks(&self) -> usize {
        self.lm_head.len() + 1
    }

    /// Sum of the residual codes' embeddings.
    ///
    /// # Shapes
    /// `[B, Q - 1]` → `[B, 1, D]`.
    pub fn embed(&self, residual: Tensor<2, Int>) -> Tensor<3> {
        let rows = self.codec_embedding.iter().enumerate();
        let rows = rows.map(|(i, table)| table.forward(residual.clone().narrow(1, i, 1)));
        rows.reduce(|sum, row| sum + row).expect("there is at least one residual codebook")
    }
}
