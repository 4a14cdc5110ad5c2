use burn::module::Module;
use burn::tensor::Tensor;
use checkpoint::{Checkpoint, Weights};
use nn::{
    AnyEngine, Decoder, DecoderRun, DecoderState, Embedding, Engine, Linear, Logits, Probe, admitted, last_rows,
    on_engine,
};
use omni_core::{Dtype, Error, Place, Positions, Result};

use crate::config::{Controls, TalkerConfig, Turns, talker_spec};
use crate::projection::ResizeMlp;

/// Codec embedding, decoder stack, codec head, and the two projections from the thinker.
#[derive(Module, Debug)]
pub struct Talker {
    codec_embedding: Embedding,
    model: Decoder,
    codec_head: Linear,
    text_projection: ResizeMlp,
    hidden_projection: ResizeMlp,
    #[module(skip)]
    pub(crate) controls: Controls,
    #[module(skip)]
    pub(crate) turns: Turns,
    #[module(skip)]
    engine: AnyEngine,
}

/// What one run of the talker carries from step to step: its KV caches.
pub type TalkerState = DecoderState;

/// One piece of input.
#[derive(Debug, Clone)]
pub struct TalkerInput {
    /// `[T, D]`: rows in the talker's own width.
    pub embeds: Tensor<2>,
    /// Positions of the `T` rows.
    pub positions: Positions,
}

/// One piece of input of one run.
#[derive(Debug)]
pub struct TalkerRun<'a> {
    /// The run's state.
    pub state: &'a mut TalkerState,
    /// The piece of input.
    pub input: &'a TalkerInput,
    /// Observes every layer.
    pub probe: Option<&'a mut dyn Probe>,
}

impl<'a> TalkerRun<'a> {
    /// Makes a run without a probe.
    pub fn new(state: &'a mut TalkerState, input: &'a TalkerInput) -> Self {
        Self { state, input, probe: None }
    }
}

/// What the talker returns for one piece.
#[derive(Debug, Clone)]
pub struct TalkerOutput {
    /// `[V]`: logits of the next first code, control ids included.
    pub logits: Logits,
    /// `[1, D]`: the last row's state after the final norm; the code predictor starts from it.
    pub hidden: Tensor<2>,
}

/// The talker's outputs for every row of a piece.
#[derive(Debug, Clone)]
pub struct TalkerStates {
    /// `[T, D]`, after the final norm.
    pub hidden: Tensor<2>,
    /// `[T, V]`: logits of the first code after each row.
    pub logits: Tensor<2>,
}

impl Talker {
    /// Loads the talker alone, computed in `dtype`.
    ///
    /// # Errors
    /// [`omni_core::Error::Config`] for its section of the config, and those of [`Checkpoint::check`] for its tensors.
    pub fn from_checkpoint(checkpoint: &Checkpoint, place: &Place, dtype: Dtype) -> Result<Self> {
        let config: TalkerConfig = checkpoint.config().section()?;
        let turns = checkpoint.config().section()?;
        let in_scope = |name: &str| name.starts_with("talker.") && !name.starts_with("talker.code_predictor.");
        checkpoint.load(place, dtype, in_scope, |weights| Self::load(weights, &config, turns))
    }

    /// Reads `talker.*` but the code predictor; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, config: &TalkerConfig, turns: Turns) -> Result<Self> {
        Self::load_parts(&weights.at("talker"), config, turns)
    }

    /// Reads `model.*`, `codec_head` and the projections.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
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
            engine: AnyEngine::of(weights),
        })
    }

    /// The code that ends the speech.
    pub fn end_code(&self) -> u32 {
        self.controls.eos
    }

    /// Number of first codes and control ids.
    pub(crate) fn vocabulary(&self) -> usize {
        self.codec_embedding.rows()
    }

    /// Most positions one run can hold.
    pub fn context_length(&self) -> usize {
        self.model.max_positions()
    }

    /// A fresh state.
    pub fn start(&self) -> TalkerState {
        self.model.start()
    }

    /// A state of a run that ends after its first piece, as in training; see [`Decoder::start_once`].
    pub fn start_once(&self) -> TalkerState {
        self.model.start_once()
    }

    /// Runs the model on one piece of each run: each weight is read once for all runs, and each run gets the results it gets alone.
    ///
    /// # Errors
    /// Separately for each run: [`omni_core::Error::ContextLength`] if its state would hold more positions than the model was made
    /// for.
    pub fn forward(&self, runs: Vec<TalkerRun>) -> Vec<Result<TalkerOutput>> {
        let check = |run: &TalkerRun| self.model.check_room(run.state, run.input.positions.tokens());
        admitted(runs, check, |runs| on_engine!(self.engine, |e| self.outputs(e, runs)))
    }

    fn outputs<E: Engine>(&self, e: &E, runs: Vec<TalkerRun>) -> Vec<TalkerOutput> {
        let lengths: Vec<usize> = runs.iter().map(|run| run.input.positions.tokens()).collect();
        let hidden = self.hidden(e, runs);
        let mut last = e.select(&hidden, &last_rows(&lengths)); // [runs, D]
        let [logits] = e.linear(&mut last, [&self.codec_head]); // [runs, V]
        let each = e.logits(logits).into_iter().enumerate();
        each.map(|(run, logits)| TalkerOutput { logits, hidden: e.tensor(&last, run..run + 1) }).collect()
    }

    /// States after the final norm `[N, D]`.
    fn hidden<E: Engine>(&self, e: &E, runs: Vec<TalkerRun>) -> E::Rows {
        let embeds: Vec<&Tensor<2>> = runs.iter().map(|run| &run.input.embeds).collect();
        let x = e.rows(&embeds);
        let runs = runs
            .into_iter()
            .map(|TalkerRun { state, input, probe }| DecoderRun { probe, ..DecoderRun::new(state, &input.positions) });
        self.model.forward(e, x, &mut runs.collect::<Vec<_>>())
    }

    /// Computes the states after the final norm of all rows of several runs in one batch, from which [`Talker::logits`] makes logits.
    ///
    /// # Shapes
    /// → `[N, D]`, one run after another.
    ///
    /// # Errors
    /// The errors of [`Talker::forward`]; the first one of any run. [`Error::Request`] for no runs.
    pub fn hidden_states(&self, runs: Vec<TalkerRun>) -> Result<Tensor<2>> {
        if runs.is_empty() {
            return Err(Error::Request("there are no runs".into()));
        }
        for run in &runs {
            self.model.check_room(run.state, run.input.positions.tokens())?;
        }
        Ok(on_engine!(self.engine, |e| {
            let hidden = self.hidden(e, runs);
            let rows = e.shape(&hidden)[0];
            e.tensor(&hidden, 0..rows)
        }))
    }

    /// Computes the logits of the first codes after some states.
    ///
    /// # Shapes
    /// `[n, D]`, after the final norm → `[n, V]`.
    pub fn logits(&self, hidden: &Tensor<2>) -> Tensor<2> {
        on_engine!(self.engine, |e| {
            let [logits] = e.linear(&mut e.rows(&[hidden]), [&self.codec_head]);
            e.tensor(&logits, 0..hidden.dims()[0])
        })
    }

    /// Computes the outputs for every row of one piece.
    ///
    /// # Errors
    /// The errors of [`Talker::forward`].
    pub fn states(&self, run: TalkerRun) -> Result<TalkerStates> {
        let hidden = self.hidden_states(vec![run])?;
        let logits = self.logits(&hidden);
        Ok(TalkerStates { hidden, logits })
    }

    /// Looks up rows of the codec embedding.
    ///
    /// # Shapes
    /// `[T]` first codes or control ids → `[T, D]`.
    ///
    /// # Errors
    /// [`omni_core::Error::Request`] for no ids, or one that is not in the table.
    pub fn codec_rows(&self, ids: &[u32]) -> Result<Tensor<2>> {
        let rows = self.vocabulary();
        match ids.iter().find(|id| **id as usize >= rows) {
            Some(id) => Err(Error::Request(format!("codec id {id} is beyond the {rows} rows of its table"))),
            None if ids.is_empty() => Err(Error::Request("no codec ids were given".into())),
            None => Ok(self.known_codec_rows(ids)),
        }
    }

    /// Looks up rows of the codec embedding by ids that lie in it.
    ///
    /// # Shapes
    /// `[T]` first codes or control ids → `[T, D]`.
    pub(crate) fn known_codec_rows(&self, ids: &[u32]) -> Tensor<2> {
        on_engine!(self.engine, |e| {
            let rows = e.embed(&self.codec_embedding, &e.ids(ids));
            e.tensor(&rows, 0..ids.len())
        })
    }

    /// Projects rows of text to the talker's width.
    ///
    /// # Shapes
    /// `[T, thinker D]` → `[T, D]`.
    pub(crate) fn text_rows(&self, embeds: &Tensor<2>) -> Tensor<2> {
        self.projected(&self.text_projection, embeds)
    }

    /// Projects the thinker's states at rows of media to the talker's width.
    ///
    /// # Shapes
    /// `[M, thinker D]` → `[M, D]`.
    pub(crate) fn media_rows(&self, states: &Tensor<2>) -> Tensor<2> {
        self.projected(&self.hidden_projection, states)
    }

    fn projected(&self, projection: &ResizeMlp, x: &Tensor<2>) -> Tensor<2> {
        on_engine!(self.engine, |e| {
            let rows = projection.forward(e, e.rows(&[x]));
            e.tensor(&rows, 0..x.dims()[0])
        })
    }
}
