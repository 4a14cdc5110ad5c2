use burn::tensor::{Int, Tensor};
use checkpoint::CONTROL_CODES;
use nn::Sampler;
use nn::sampler::id_mask;
use omni_core::{CodePredictor, FrameCodes, Positions, Result, SamplingOptions, Stage, TalkerInput, TalkerOutput};

use crate::model::TalkerState;
use crate::{Talker, TalkerPrompt};

/// How a run of the talker is sampled and bounded.
#[derive(Debug, Clone)]
pub struct SpeakOptions {
    /// Sampling of the first codes.
    pub sampling: SamplingOptions,
    /// Sampling of the residual codes.
    pub residual_sampling: SamplingOptions,
    /// Most first codes; a frame exists for each code that was fed back, so there is one frame less.
    pub max_codes: usize,
    /// The code that ends the speech, if not the config's.
    pub end_code: Option<u32>,
}

/// Why the speech ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpeechStop {
    /// The talker chose its end code.
    End,
    /// The limit on codes was reached, or the talker's context is full.
    Limit,
}

/// One run of the talker, between frames.
pub struct Speaking<P: CodePredictor> {
    pub(crate) state: TalkerState,
    pub(crate) predictor: P::State,
    sampler: Sampler,
    max_codes: usize,
    end_code: i64,
    delta: f32,
    pub(crate) hidden: Tensor<3>,
    pub(crate) code: Tensor<2, Int>,
    codes: usize,
    /// `[1, 1, D]`: the summed embeddings of a frame that was made and not yet fed back.
    made: Option<Tensor<3>>,
    stop: Option<SpeechStop>,
    /// [`Speaking::code`] on the host.
    first_code: i64,
}

impl<P: CodePredictor> Speaking<P> {
    /// The first code of the next frame, or the end code.
    pub fn first_code(&self) -> i64 {
        self.first_code
    }

    /// Why the speech ended, once it has.
    pub fn stop(&self) -> Option<SpeechStop> {
        self.stop
    }

    /// Positions held so far: the prompt's and one per frame that was fed back.
    pub fn state(&self) -> &TalkerState {
        &self.state
    }

    /// Lets go of everything but the caches.
    pub fn into_state(self) -> TalkerState {
        self.state
    }

    /// The code predictor's state.
    pub fn predictor(&self) -> &P::State {
        &self.predictor
    }
}

/// Looks at each step of a run, for parity tests. The empty probe `()` costs nothing.
pub trait SpeakProbe {
    /// Scores of a first code: raw, after penalty and suppression; and the state they come from.
    fn choose(&mut self, _output: &TalkerOutput, _sampler: &Sampler) {}
    /// The first code that was chosen `[1, 1]`.
    fn chosen(&mut self, _code: &Tensor<2, Int>) {}
    /// Input of a step `[1, 1, D]` and its position.
    fn input(&mut self, _embeds: &Tensor<3>, _position: f32) {}
}

impl SpeakProbe for () {}

impl Talker {
    /// Takes the prompt and chooses the first code.
    ///
    /// `positions` belong to the prompt; a later step at cache length `n` sits at `n + delta`.
    ///
    /// # Errors
    /// As [`Stage::step`].
    pub fn begin<P: CodePredictor>(
        &self,
        prompt: &TalkerPrompt,
        positions: (Positions, f32),
        predictor: &P,
        options: &SpeakOptions,
        probe: &mut dyn SpeakProbe,
    ) -> Result<Speaking<P>> {
        let mut state = self.start();
        let output = self.step(&mut state, prompt.input(0, &positions.0))?;
        Ok(self.begin_after((state, output), positions.1, predictor, options, probe))
    }

    /// As [`Talker::begin`], with a state that has taken the prompt ([`TalkerPrompt::input`]), and what came of it.
    pub fn begin_after<P: CodePredictor>(
        &self,
        (state, output): (TalkerState, TalkerOutput),
        delta: f32,
        predictor: &P,
        options: &SpeakOptions,
        probe: &mut dyn SpeakProbe,
    ) -> Speaking<P> {
        let end_code = options.end_code.unwrap_or(self.end_code());
        // Every code but the last is fed back, and each needs a position.
        let room = (self.context_length() + 1).saturating_sub(state.tokens());
        let options = SpeakOptions { max_codes: options.max_codes.min(room), ..options.clone() };
        let mut sampler = Sampler::new(&options.sampling, Some(self.suppressed(end_code as usize)));
        probe.choose(&output, &sampler);
        let code = sampler.sample(output.logits);
        probe.chosen(&code);
        let mut speaking = Speaking {
            state,
            predictor: predictor.start(&options.residual_sampling),
            sampler,
            max_codes: options.max_codes,
            end_code: i64::from(end_code),
            delta,
            hidden: output.hidden,
            code,
            codes: 1,
            made: None,
            stop: None,
            first_code: 0,
        };
        speaking.notice_end();
        speaking
    }

    /// Makes one frame, takes the next row of text, and chooses the code of the frame after it: [`Talker::codes`], then
    /// [`Talker::advance`].
    ///
    /// # Errors
    /// As [`Stage::step`].
    pub fn frame<P: CodePredictor>(
        &self,
        speaking: &mut Speaking<P>,
        predictor: &P,
        text: Tensor<3>,
        probe: &mut dyn SpeakProbe,
    ) -> Result<Option<Tensor<2, Int>>> {
        let codes = self.codes(speaking, predictor);
        if codes.is_some() {
            self.advance(speaking, text, probe)?;
        }
        Ok(codes)
    }

    /// Makes one frame: its codes `[1, Q]`, or `None` when the speech has ended. It needs no text yet.
    pub fn codes<P: CodePredictor>(&self, speaking: &mut Speaking<P>, predictor: &P) -> Option<Tensor<2, Int>> {
        if speaking.stop.is_some() {
            return None;
        }
        let first = self.codec_embedding.forward(speaking.code.clone()); // [1, 1, D]
        let frame = predictor.predict(&mut speaking.predictor, speaking.hidden.clone(), first.clone());
        Some(speaking.keep_frame(first, frame))
    }

    /// Feeds the frame that was made back, with the next row of text, and chooses the first code of the next one.
    ///
    /// `text` is `[1, 1, D]`: the row of the next word, of the text's end, or the prompt's pad after it. Does nothing if no
    /// frame was made.
    ///
    /// # Errors
    /// As [`Stage::step`].
    pub fn advance<P: CodePredictor>(
        &self,
        speaking: &mut Speaking<P>,
        text: Tensor<3>,
        probe: &mut dyn SpeakProbe,
    ) -> Result<()> {
        let Some(input) = speaking.next_input(text, probe) else {
            return Ok(());
        };
        let output = self.step(&mut speaking.state, input)?;
        speaking.take_output(output, probe);
        Ok(())
    }

    /// Control ids are never spoken, but the end code may be chosen.
    fn suppressed(&self, end_code: usize) -> Tensor<2, burn::tensor::Bool> {
        let controls = self.vocabulary.saturating_sub(CONTROL_CODES)..self.vocabulary;
        let device = self.codec_embedding.device().clone();
        id_mask(self.vocabulary, &device, |id| controls.contains(&id) && id != end_code)
    }
}

impl<P: CodePredictor> Speaking<P> {
    /// Keeps a frame to be fed back; its codes `[1, Q]`.
    pub(crate) fn keep_frame(&mut self, first: Tensor<3>, frame: FrameCodes) -> Tensor<2, Int> {
        self.made = Some(first + frame.embeds);
        Tensor::cat(vec![self.code.clone(), frame.residual], 1)
    }

    /// What the talker takes next; `None` if no frame was made.
    pub(crate) fn next_input(&mut self, text: Tensor<3>, probe: &mut dyn SpeakProbe) -> Option<TalkerInput> {
        let embeds = self.made.take()? + text;
        let position = self.state.tokens() as f32 + self.delta;
        probe.input(&embeds, position);
        Some(TalkerInput { embeds, positions: Positions::sequence(position, 1) })
    }

    /// Chooses the first code of the next frame.
    pub(crate) fn take_output(&mut self, output: TalkerOutput, probe: &mut dyn SpeakProbe) {
        probe.choose(&output, &self.sampler);
        self.code = self.sampler.sample(output.logits);
        probe.chosen(&self.code);
        self.hidden = output.hidden;
        self.codes += 1;
        self.notice_end();
    }

    /// The one place of a frame where an id crosses to the host.
    fn notice_end(&mut self) {
        self.first_code = self.code.clone().into_scalar::<i64>();
        if self.first_code == self.end_code {
            self.stop = Some(SpeechStop::End);
        } else if self.codes >= self.max_codes {
            self.stop = Some(SpeechStop::Limit);
        }
    }
}
