use burn::tensor::{Int, Tensor};

use crate::{Positions, SamplingOptions, Stage};

/// Rows of pictures and video among the tokens of one prefill, and what is added to them (paper, section 2.2; deepstack).
#[derive(Debug, Clone)]
pub struct VisualRows {
    /// Where the rows are: indices into the flattened `[B * T]` tokens, in order.
    pub indices: Tensor<1, Int>,
    /// `[rows, D]` each; feature `i` is added to these rows after layer `i`.
    pub deepstack: Vec<Tensor<2>>,
}

/// One piece of input of the thinker: a prompt, a part of it, or one generated token.
#[derive(Debug, Clone)]
pub struct DecoderInput {
    /// `[B, T, D]`: embedded tokens, with media rows already in place.
    pub embeds: Tensor<3>,
    /// Positions of the `T` tokens.
    pub positions: Positions,
    /// Padding tokens at the left of each row; only in the first step, empty for none.
    pub left_padding: Vec<usize>,
    /// Visual rows of this piece, if any.
    pub visual: Option<VisualRows>,
}

impl DecoderInput {
    /// Rows of text only.
    pub fn text(embeds: Tensor<3>, positions: Positions) -> Self {
        Self { embeds, positions, left_padding: Vec::new(), visual: None }
    }
}

/// What the thinker returns for one piece.
#[derive(Debug, Clone)]
pub struct ThinkerOutput {
    /// `[B, V]`: scores of the token after the last one.
    pub logits: Tensor<2>,
    /// `[B, T, D]`: states of the accepted layer, the *tap* the talker reads at media rows.
    /// `None` if the model has no layer of that number (a checkpoint without a talker).
    pub tap: Option<Tensor<3>>,
}

/// The language model that reads every modality and writes text.
pub trait Thinker: Stage<Input = DecoderInput, Output = ThinkerOutput> {
    /// Rows of the embedding table. `[B, T]` ids → `[B, T, D]`.
    fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3>;
}

/// One piece of input of the talker.
#[derive(Debug, Clone)]
pub struct TalkerInput {
    /// `[B, T, D]`: the talker's own width.
    pub embeds: Tensor<3>,
    /// Positions of the `T` rows.
    pub positions: Positions,
}

/// What the talker returns for one piece.
#[derive(Debug, Clone)]
pub struct TalkerOutput {
    /// `[B, V]`: scores of the next first code, control ids included.
    pub logits: Tensor<2>,
    /// `[B, 1, D]`: final-normed state of the last row; the code predictor starts from it.
    pub hidden: Tensor<3>,
}

/// The model that turns text into first codes of codec frames.
pub trait Talker: Stage<Input = TalkerInput, Output = TalkerOutput> {}

/// Residual codes of one frame.
#[derive(Debug, Clone)]
pub struct FrameCodes {
    /// `[B, Q - 1]`: codes of codebooks 1 to Q − 1.
    pub residual: Tensor<2, Int>,
    /// `[B, 1, D]`: sum of the residual codes' embeddings, part of the talker's next input.
    pub embeds: Tensor<3>,
}

/// What a frame starts from, and the run it belongs to.
pub struct FrameStart<'a, S> {
    /// The run's state.
    pub state: &'a mut S,
    /// `[1, 1, D]`: the talker's state that produced the first code.
    pub hidden: Tensor<3>,
    /// `[1, 1, D]`: the first code's embedding.
    pub first: Tensor<3>,
}

/// Completes a frame: from the talker's state and the first code to the residual codes.
pub trait CodePredictor: Send + Sync {
    /// Caches and the random source, kept over the frames of one run.
    type State: Send;

    /// A fresh state.
    fn start(&self, sampling: &SamplingOptions) -> Self::State;

    /// One frame.
    ///
    /// # Shapes
    /// `hidden` `[B, 1, D]` is the talker's state that produced the first code, `first` `[B, 1, D]` that code's embedding.
    fn predict(&self, state: &mut Self::State, hidden: Tensor<3>, first: Tensor<3>) -> FrameCodes;

    /// One frame of each of several runs: what [`CodePredictor::predict`] gives for each, in their order. A predictor that can
    /// share its weights among runs does so here; if not, they go one after the other.
    fn predict_many(&self, frames: Vec<FrameStart<'_, Self::State>>) -> Vec<FrameCodes> {
        frames.into_iter().map(|frame| self.predict(frame.state, frame.hidden, frame.first)).collect()
    }
}

/// Codec frames: `[B, Q, F]` codes.
#[derive(Debug, Clone)]
pub struct CodeFrames {
    /// `[B, Q, F]`.
    pub codes: Tensor<3, Int>,
}

/// Finished sound.
#[derive(Debug, Clone)]
pub struct Waveform {
    /// `[B, N]`, between −1 and 1.
    pub samples: Tensor<2>,
}

/// Codec frames in, samples out.
pub trait Vocoder: Stage<Input = CodeFrames, Output = Waveform> {
    /// Samples per second.
    fn sample_rate(&self) -> u32;
}
