use burn::module::Module;
use burn::tensor::{Int, Tensor};
use checkpoint::{DecoderConfig, OmniConfig, Weights};
use nn::{Decoder, DecoderRun, DecoderState, Embedding, Linear, Probe, head_of_each};
use omni_core::{DecoderInput, Result, Stage, ThinkerOutput};

use crate::config::thinker_spec;
use crate::tap::Tap;

/// Embedding, decoder stack and language-model head.
#[derive(Module, Debug)]
pub struct Thinker {
    embed_tokens: Embedding,
    model: Decoder,
    lm_head: Linear,
    accept_hidden_layer: Option<usize>,
}

/// What one run of the thinker carries from step to step: its KV caches.
pub type ThinkerState = DecoderState;

impl Thinker {
    /// Reads `thinker.model.*` and `thinker.lm_head`; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, config: &OmniConfig) -> Result<Self> {
        let accepted = config.talker().ok().map(|talker| talker.accept_hidden_layer);
        Self::load_parts(&weights.at("thinker"), &config.thinker.text, accepted)
    }

    /// Reads `model.*` and `lm_head`; `accept_hidden_layer` is the layer whose states the tap returns.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load_parts(weights: &Weights, config: &DecoderConfig, accept_hidden_layer: Option<usize>) -> Result<Self> {
        let table = [config.vocab_size, config.hidden_size];
        let model = weights.at("model");
        Ok(Self {
            embed_tokens: Embedding::load(&model.at("embed_tokens"), table)?,
            model: Decoder::load(&model, &thinker_spec(config))?,
            lm_head: Linear::load(&weights.at("lm_head"), table, false)?,
            accept_hidden_layer,
        })
    }

    /// Most tokens one run can hold.
    pub fn context_length(&self) -> usize {
        self.model.max_positions()
    }

    /// One piece, with a look at every layer.
    ///
    /// # Shapes
    /// Returns the states after the final norm `[B, T, D]` and the tap `[B, T, D]`.
    ///
    /// # Errors
    /// [`omni_core::Error::ContextLength`] if the state would hold more tokens than the model was made for.
    pub fn hidden(
        &self,
        state: &mut ThinkerState,
        input: DecoderInput,
        probe: &mut dyn Probe,
    ) -> Result<(Tensor<3>, Option<Tensor<3>>)> {
        self.model.pad_left(state, &input.left_padding);
        let mut tap = Tap::new(self.accept_hidden_layer, &input.embeds, probe);
        let hidden = self.model.forward(state, input.embeds, &input.positions, input.visual.as_ref(), &mut tap)?;
        let taken = tap.finish(self.model.depth(), &hidden);
        Ok((hidden, taken))
    }

    /// Scores of the token after each row.
    ///
    /// # Shapes
    /// `[B, T, D]` → `[B, T, V]`.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.lm_head.forward(hidden)
    }

    /// A step of each of several runs, together where the device allows: each weight is read once for all of them. What
    /// [`Stage::step`] gives for each; a run that cannot take its input fails alone. Memory grows with the rows of all of them.
    ///
    /// # Shapes
    /// Each input is `[1, T, D]` without padding.
    ///
    /// # Panics
    /// If an input has padding.
    pub fn step_many(&self, steps: Vec<(&mut ThinkerState, DecoderInput)>) -> Vec<Result<ThinkerOutput>> {
        if steps.len() == 1 {
            return steps.into_iter().map(|(state, input)| self.step(state, input)).collect();
        }
        assert!(steps.iter().all(|(_, input)| input.left_padding.is_empty()), "steps of several runs without padding");
        let (states, inputs): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
        let mut looks = vec![(); inputs.len()];
        let looks = looks.iter_mut().zip(&inputs);
        let mut taps: Vec<Tap> =
            looks.map(|(look, input)| Tap::new(self.accept_hidden_layer, &input.embeds, look)).collect();
        let runs = states.into_iter().zip(&inputs).zip(&mut taps).map(|((state, input), tap)| DecoderRun {
            visual: input.visual.as_ref(),
            probe: Some(tap),
            ..DecoderRun::new(state, input.embeds.clone(), &input.positions)
        });
        let hidden = self.model.forward_many(runs.collect());
        let taps = taps.into_iter().zip(&hidden);
        let taps: Vec<_> = taps.map(|(tap, hidden)| tap.finish(self.model.depth(), hidden.as_ref().ok()?)).collect();
        let scored = head_of_each(&self.lm_head, hidden).into_iter().zip(taps);
        scored.map(|(scored, tap)| scored.map(|(_, logits)| ThinkerOutput { logits, tap })).collect()
    }
}

impl Stage for Thinker {
    type State = ThinkerState;
    type Input = DecoderInput;
    type Output = ThinkerOutput;

    fn start(&self) -> ThinkerState {
        self.model.start()
    }

    fn step(&self, state: &mut ThinkerState, input: DecoderInput) -> Result<ThinkerOutput> {
        let (hidden, tap) = self.hidden(state, input, &mut ())?;
        let last = hidden.dims()[1] - 1;
        let logits = self.lm_head.rows(hidden.narrow(1, last, 1).squeeze_dim(1)); // [B, V]
        Ok(ThinkerOutput { logits, tap })
    }

    fn finish(&self, _: &mut ThinkerState) -> Result<Option<ThinkerOutput>> {
        Ok(None)
    }
}

impl omni_core::Thinker for Thinker {
    fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.embed_tokens.forward(ids)
    }
}
