use burn::module::Module;
use burn::tensor::Tensor;
use checkpoint::{Checkpoint, Weights};
use nn::{AnyEngine, Decoder, Embedding, Engine, Linear, on_engine};
use omni_core::{Dtype, Error, Place, Result};

use crate::config::{CodePredictorConfig, predictor_spec};

/// `Q − 1` embeddings and heads around a small decoder. Table and head `i` belong to codebook `i + 1`.
#[derive(Module, Debug)]
pub struct CodePredictor {
    pub(crate) codec_embedding: Vec<Embedding>,
    pub(crate) model: Decoder,
    pub(crate) lm_head: Vec<Linear>,
    #[module(skip)]
    pub(crate) engine: AnyEngine,
}

impl CodePredictor {
    /// Loads the code predictor alone, computed in `dtype`.
    ///
    /// # Errors
    /// [`Error::Config`] for its section of the config, and those of [`Checkpoint::check`] for its tensors.
    pub fn from_checkpoint(checkpoint: &Checkpoint, place: &Place, dtype: Dtype) -> Result<Self> {
        let config: CodePredictorConfig = checkpoint.config().section()?;
        let in_scope = |name: &str| name.starts_with("talker.code_predictor.");
        checkpoint.load(place, dtype, in_scope, |weights| Self::load(weights, &config))
    }

    /// Reads `talker.code_predictor.*`; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, config: &CodePredictorConfig) -> Result<Self> {
        Self::load_parts(&weights.at("talker.code_predictor"), config)
    }

    /// Reads `model.*` and `lm_head.*`.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
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
            engine: AnyEngine::of(weights),
        })
    }

    /// Codebooks `Q`, the first included.
    pub fn codebooks(&self) -> usize {
        self.lm_head.len() + 1
    }

    /// Width `D` of the states and rows a frame starts from.
    pub(crate) fn width(&self) -> usize {
        self.codec_embedding.first().map_or(0, Embedding::width)
    }

    /// Sum of the residual codes' embeddings, in f32.
    ///
    /// # Shapes
    /// `[Q - 1]` → `[1, D]`.
    ///
    /// # Errors
    /// [`Error::Request`] for another number of codes, or a code outside its table.
    pub fn embed(&self, residual: &[u32]) -> Result<Tensor<2>> {
        self.check(residual)?;
        Ok(on_engine!(self.engine, |e| self.sum_of_embeddings(e, residual)))
    }

    /// Sum `[1, D]` of the residual codes' embeddings, in f32; the codes lie in their tables.
    pub(crate) fn sum_of_embeddings<E: Engine>(&self, e: &E, residual: &[u32]) -> Tensor<2> {
        let rows = self.codec_embedding.iter().zip(residual).map(|(table, code)| e.embed(table, &e.ids(&[*code])));
        let sum = rows.fold(None, |sum, row| Some(with_rows(e, sum, &row)));
        e.tensor(&sum.expect("there is at least one residual codebook"), 0..1)
    }

    pub(crate) fn check(&self, residual: &[u32]) -> Result<()> {
        if residual.len() != self.codec_embedding.len() {
            let (found, expected) = (residual.len(), self.codec_embedding.len());
            return Err(Error::Request(format!("a frame of {found} residual codes, expected {expected}")));
        }
        for (index, (code, table)) in residual.iter().zip(&self.codec_embedding).enumerate() {
            if *code as usize >= table.rows() {
                let (book, rows) = (index + 1, table.rows());
                return Err(Error::Request(format!("code {code} of codebook {book}, which has {rows} codes")));
            }
        }
        Ok(())
    }
}

/// Adds the embeddings of one codebook to the sum of those before it, which is kept in f32.
pub(crate) fn with_rows<E: Engine>(e: &E, sum: Option<E::Rows>, rows: &E::Rows) -> E::Rows {
    match sum {
        Some(sum) => e.add(sum, rows),
        None => e.widened(rows),
    }
}
