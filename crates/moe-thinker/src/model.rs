use burn::module::Module;
use burn::tensor::Tensor;
use checkpoint::{Checkpoint, Weights};
use nn::{
    AnyEngine, Decoder, DecoderConfig, DecoderRun, DecoderState, Embedding, Engine, Linear, Logits, Probe, admitted,
    last_rows, on_engine,
};
use omni_core::{Dtype, Error, Place, Positions, Result, VisualRows};

use crate::config::ThinkerConfig;
use crate::config::thinker_spec;
use crate::tap::Tap;

/// Embedding, decoder stack and language-model head.
#[derive(Module, Debug)]
pub struct Thinker {
    embed_tokens: Embedding,
    model: Decoder,
    lm_head: Linear,
    #[module(skip)]
    accept_hidden_layer: Option<usize>,
    #[module(skip)]
    engine: AnyEngine,
}

/// What one run of the thinker carries from step to step: its KV caches.
pub type ThinkerState = DecoderState;

/// One piece of input: a prompt, a part of it, or one generated token.
#[derive(Debug, Clone)]
pub struct ThinkerInput {
    /// `[T, D]`: embedded tokens, with media rows already in place.
    pub embeds: Tensor<2>,
    /// Positions of the `T` tokens.
    pub positions: Positions,
    /// Visual rows of this piece, if any.
    pub visual: Option<VisualRows>,
    /// Whether the states of the accepted layer are wanted.
    pub tap: bool,
}

impl ThinkerInput {
    /// Rows of text, without the tap.
    pub fn text(embeds: Tensor<2>, positions: Positions) -> Self {
        Self { embeds, positions, visual: None, tap: false }
    }
}

/// One piece of input of one run.
#[derive(Debug)]
pub struct ThinkerRun<'a> {
    /// The run's state.
    pub state: &'a mut ThinkerState,
    /// The piece of input.
    pub input: &'a ThinkerInput,
    /// Observes every layer.
    pub probe: Option<&'a mut dyn Probe>,
}

impl<'a> ThinkerRun<'a> {
    /// Makes a run without a probe.
    pub fn new(state: &'a mut ThinkerState, input: &'a ThinkerInput) -> Self {
        Self { state, input, probe: None }
    }
}

/// What the thinker returns for one piece.
#[derive(Debug, Clone)]
pub struct ThinkerOutput {
    /// `[V]`: logits of the token after the last one.
    pub logits: Logits,
    /// `[T, D]`: states of the accepted layer, the *tap* the talker reads at media rows; `None` if it was not asked for, or
    /// the model has no layer of that number (a checkpoint without a talker).
    pub tap: Option<Tensor<2>>,
}

/// The thinker's states of the rows of several runs, one run after another.
#[derive(Debug, Clone)]
pub struct ThinkerHidden {
    /// `[N, D]`, after the final norm.
    pub hidden: Tensor<2>,
    /// States of the accepted layer of each run; see [`ThinkerOutput::tap`].
    pub taps: Vec<Option<Tensor<2>>>,
}

/// The thinker's outputs for every row of a piece.
#[derive(Debug, Clone)]
pub struct ThinkerStates {
    /// `[T, D]`, after the final norm.
    pub hidden: Tensor<2>,
    /// `[T, V]`: logits of the token after each one.
    pub logits: Tensor<2>,
    /// States of the accepted layer; see [`ThinkerOutput::tap`].
    pub tap: Option<Tensor<2>>,
}

impl Thinker {
    /// Loads the thinker alone, computed in `dtype`.
    ///
    /// # Errors
    /// [`omni_core::Error::Config`] for its section of the config, and those of [`Checkpoint::check`] for its tensors.
    pub fn from_checkpoint(checkpoint: &Checkpoint, place: &Place, dtype: Dtype) -> Result<Self> {
        let config: ThinkerConfig = checkpoint.config().section()?;
        let in_scope = |name: &str| name.starts_with("thinker.model.") || name.starts_with("thinker.lm_head.");
        let accepted = checkpoint.config().get("talker_config.accept_hidden_layer").and_then(|layer| layer.as_u64());
        checkpoint
            .load(place, dtype, in_scope, |weights| Self::load(weights, &config, accepted.map(|layer| layer as usize)))
    }

    /// Reads `thinker.model.*` and `thinker.lm_head`; `weights` stands at the checkpoint's root. `accept_hidden_layer` is the layer
    /// whose states the tap returns, as the talker's config names it.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, config: &ThinkerConfig, accept_hidden_layer: Option<usize>) -> Result<Self> {
        Self::load_parts(&weights.at("thinker"), &config.text, accept_hidden_layer)
    }

    /// Reads `model.*` and `lm_head`; `accept_hidden_layer` is the layer whose states the tap returns.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load_parts(weights: &Weights, config: &DecoderConfig, accept_hidden_layer: Option<usize>) -> Result<Self> {
        let table = [config.vocab_size, config.hidden_size];
        let model = weights.at("model");
        Ok(Self {
            embed_tokens: Embedding::load(&model.at("embed_tokens"), table)?,
            model: Decoder::load(&model, &thinker_spec(config))?,
            lm_head: Linear::load(&weights.at("lm_head"), table, false)?,
            accept_hidden_layer,
            engine: AnyEngine::of(weights),
        })
    }

    /// Most tokens one run can hold.
    pub fn context_length(&self) -> usize {
        self.model.max_positions()
    }

    /// The engine the model was loaded for.
    pub fn engine(&self) -> &AnyEngine {
        &self.engine
    }

    /// A fresh state.
    pub fn start(&self) -> ThinkerState {
        self.model.start()
    }

    /// A state of a run that ends after its first piece, as in training; see [`Decoder::start_once`].
    pub fn start_once(&self) -> ThinkerState {
        self.model.start_once()
    }

    /// Looks up rows of the embedding table.
    ///
    /// # Shapes
    /// `[T]` ids → `[T, D]`.
    ///
    /// # Panics
    /// If an id is not in the table.
    pub fn embed(&self, ids: &[u32]) -> Tensor<2> {
        on_engine!(self.engine, |e| {
            let rows = e.embed(&self.embed_tokens, &e.ids(ids));
            e.tensor(&rows, 0..ids.len())
        })
    }

    /// Runs the model on one piece of each run: each weight is read once for all runs, and each run gets the results it gets alone.
    /// Prefill and decode are the same call. Memory grows with the rows of all runs.
    ///
    /// # Errors
    /// Separately for each run: [`omni_core::Error::ContextLength`] if its state would hold more tokens than the model was made
    /// for.
    pub fn forward(&self, runs: Vec<ThinkerRun>) -> Vec<Result<ThinkerOutput>> {
        let check = |run: &ThinkerRun| self.model.check_room(run.state, run.input.positions.tokens());
        admitted(runs, check, |runs| on_engine!(self.engine, |e| self.outputs(e, runs)))
    }

    fn outputs<E: Engine>(&self, e: &E, runs: Vec<ThinkerRun>) -> Vec<ThinkerOutput> {
        let lengths: Vec<usize> = runs.iter().map(|run| run.input.positions.tokens()).collect();
        let (hidden, taps) = self.hidden(e, runs);
        let mut last = e.select(&hidden, &last_rows(&lengths)); // [runs, D]
        let [logits] = e.linear(&mut last, [&self.lm_head]); // [runs, V]
        let each = e.logits(logits).into_iter().zip(taps);
        each.map(|(logits, tap)| ThinkerOutput { logits, tap }).collect()
    }

    /// States after the final norm `[N, D]`, and each run's tap.
    fn hidden<E: Engine>(&self, e: &E, runs: Vec<ThinkerRun>) -> (E::Rows, Vec<Option<Tensor<2>>>) {
        let embeds: Vec<&Tensor<2>> = runs.iter().map(|run| &run.input.embeds).collect();
        let x = e.rows(&embeds);
        let (mut states, mut taps) = (Vec::new(), Vec::new());
        for ThinkerRun { state, input, probe } in runs {
            taps.push(Tap::new(self.accept_hidden_layer.filter(|_| input.tap), &input.embeds, probe));
            states.push((state, input));
        }
        let runs = states.into_iter().zip(&mut taps);
        let mut runs: Vec<DecoderRun> = runs
            .map(|((state, input), tap)| DecoderRun {
                visual: input.visual.as_ref(),
                probe: Some(tap),
                ..DecoderRun::new(state, &input.positions)
            })
            .collect();
        let hidden = self.model.forward(e, x, &mut runs);
        let mut start = 0;
        let rows: Vec<_> = runs
            .iter()
            .map(|run| {
                start += run.positions.tokens();
                start - run.positions.tokens()..start
            })
            .collect();
        drop(runs);
        let depth = self.model.depth();
        let taken = taps.into_iter().zip(rows).map(|(tap, rows)| match tap.wants_output(depth) {
            true => Some(e.tensor(&hidden, rows)),
            false => tap.into_taken(),
        });
        let taken = taken.collect();
        (hidden, taken)
    }

    /// Computes the states of all rows of several runs in one batch, from which [`Thinker::logits`] makes logits.
    ///
    /// # Errors
    /// The errors of [`Thinker::forward`]; the first one of any run. [`Error::Request`] for no runs.
    pub fn hidden_states(&self, runs: Vec<ThinkerRun>) -> Result<ThinkerHidden> {
        if runs.is_empty() {
            return Err(Error::Request("there are no runs".into()));
        }
        for run in &runs {
            self.model.check_room(run.state, run.input.positions.tokens())?;
        }
        Ok(on_engine!(self.engine, |e| {
            let (hidden, taps) = self.hidden(e, runs);
            let rows = e.shape(&hidden)[0];
            ThinkerHidden { hidden: e.tensor(&hidden, 0..rows), taps }
        }))
    }

    /// Computes the logits of the tokens after some states.
    ///
    /// # Shapes
    /// `[n, D]`, after the final norm → `[n, V]`.
    pub fn logits(&self, hidden: &Tensor<2>) -> Tensor<2> {
        on_engine!(self.engine, |e| {
            let [logits] = e.linear(&mut e.rows(&[hidden]), [&self.lm_head]);
            e.tensor(&logits, 0..hidden.dims()[0])
        })
    }

    /// Computes the outputs for every row of one piece.
    ///
    /// # Errors
    /// The errors of [`Thinker::forward`].
    pub fn states(&self, run: ThinkerRun) -> Result<ThinkerStates> {
        let ThinkerHidden { hidden, mut taps } = self.hidden_states(vec![run])?;
        let logits = self.logits(&hidden);
        Ok(ThinkerStates { hidden, logits, tap: taps.remove(0) })
    }
}
