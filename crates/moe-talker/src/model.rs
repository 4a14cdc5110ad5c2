use burn::module::Module;
use burn::tensor::{Int, Tensor};
use checkpoint::{OmniConfig, TalkerConfig, Weights};
use nn::{Decoder, DecoderRun, DecoderState, Embedding, Linear, Probe, head_of_each, id_row};
use omni_core::{Result, Stage, TalkerInput, TalkerOutput};

use crate::config::{Controls, Turns, talker_spec};
use crate::projection::ResizeMlp;

/// Codec embedding, decoder stack, codec head, and the two projections from the thinker.
#[derive(Module, Debug)]
pub struct Talker {
    pub(crate) codec_embedding: Embedding,
    model: Decoder,
    codec_head: Linear,
    pub(crate) text_projection: ResizeMlp,
    pub(crate) hidden_projection: ResizeMlp,
    #[module(skip)]
    pub(crate) controls: Controls,
    #[module(skip)]
    pub(crate) turns: Turns,
    pub(crate) vocabulary: usize,
}

/// What one run of the talker carries from step to step: its KV caches.
pub type TalkerState = DecoderState;

impl Talker {
    /// Reads `talker.*` but the code predictor; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// As [`Weights::tensor`], or [`omni_core::Error::NotLoaded`] for a checkpoint without audio output.
    pub fn load(weights: &Weights, config: &OmniConfig) -> Result<Self> {
        Self::load_parts(&weights.at("talker"), config.talker()?, Turns::from(config))
    }

    /// Reads `model.*`, `codec_head` and the projections.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load_parts(weights: &Weights, config: &TalkerConfig, turns: Turns) -> Result<Self> {
        let table = [config.text.vocab_size, config.text.hidden_size];
        let model = weights.at("model");
        Ok(Self {
            codec_embedding: Embedding::load(&model.at("codec_embedding"), table)?,
            model: Decoder::load(&model, &talker_spec(&config.text))?,
            codec_head: Linear::load(&weights.at("codec_head"), table, false)?,
            text_projection: ResizeMlp::load(&weights.at("text_projection"), config)?,
            hidden_projection: ResizeMlp::load(&weights.at("hidden_projection"), config)?,
            controls: Controls::from(config),
            turns,
            vocabulary: config.text.vocab_size,
        })
    }

    /// The code that ends the speech.
    pub fn end_code(&self) -> u32 {
        self.controls.eos
    }

    /// Most positions one run can hold.
    pub fn context_length(&self) -> usize {
        self.model.max_positions()
    }

    /// One piece, with a look at every layer: states after the final norm.
    ///
    /// # Shapes
    /// `[B, T, D]` → `[B, T, D]`.
    ///
    /// # Errors
    /// [`omni_core::Error::ContextLength`] if the state would hold more positions than the model was made for.
    pub fn hidden(&self, state: &mut TalkerState, input: TalkerInput, probe: &mut dyn Probe) -> Result<Tensor<3>> {
        self.model.forward(state, input.embeds, &input.positions, None, probe)
    }

    /// Scores of the first code after each row.
    ///
    /// # Shapes
    /// `[B, T, D]` → `[B, T, V]`.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.codec_head.forward(hidden)
    }

    /// A step of each of several runs, together where the device allows: each weight is read once for all of them. What
    /// [`Stage::step`] gives for each; a run that cannot take its input fails alone.
    ///
    /// # Shapes
    /// Each input is `[1, T, D]`.
    pub fn step_many(&self, steps: Vec<(&mut TalkerState, TalkerInput)>) -> Vec<Result<TalkerOutput>> {
        if steps.len() == 1 {
            return steps.into_iter().map(|(state, input)| self.step(state, input)).collect();
        }
        let (states, inputs): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
        let runs = states.into_iter().zip(&inputs);
        let runs = runs.map(|(state, input)| DecoderRun::new(state, input.embeds.clone(), &input.positions));
        let hidden = self.model.forward_many(runs.collect());
        let scored = head_of_each(&self.codec_head, hidden).into_iter();
        scored.map(|scored| scored.map(|(hidden, logits)| TalkerOutput { logits, hidden })).collect()
    }

    /// Rows of the codec embedding.
    ///
    /// # Shapes
    /// `[B, T]` first codes or control ids → `[B, T, D]`.
    pub fn codec_rows(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.codec_embedding.forward(ids)
    }

    /// Rows of control ids. `[T]` → `[1, T, D]`.
    pub(crate) fn control_rows(&self, ids: &[u32]) -> Tensor<3> {
        self.codec_embedding.forward(id_row(ids, self.codec_embedding.device()))
    }
}

impl Stage for Talker {
    type State = TalkerState;
    type Input = TalkerInput;
    type Output = TalkerOutput;

    fn start(&self) -> TalkerState {
        self.model.start()
    }

    fn step(&self, state: &mut TalkerState, input: TalkerInput) -> Result<TalkerOutput> {
        let hidden = self.hidden(state, input, &mut ())?;
        let last = hidden.dims()[1] - 1;
        let hidden = hidden.narrow(1, last, 1); // [B, 1, D]
        Ok(TalkerOutput { logits: self.codec_head.rows(hidden.clone().squeeze_dim(1)), hidden })
    }

    fn finish(&self, _: &mut TalkerState) -> Result<Option<TalkerOutput>> {
        Ok(None)
    }
}

impl omni_core::Talker for Talker {}
