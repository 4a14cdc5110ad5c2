use burn::tensor::{DType, Tensor};
use nn::sampler::Suppressed;
use nn::{Logits, Sampler};
use omni_core::{FrameCodes, FrameStart, Positions, Result, SamplingOptions};

use crate::config::CONTROL_CODES;
use crate::model::TalkerState;
use crate::{Talker, TalkerInput, TalkerOutput, TalkerPrompt, TalkerRun};

/// How a run of the talker is sampled and bounded.
#[derive(Debug, Clone)]
pub struct SpeakOptions {
    /// Sampling of the first codes.
    pub sampling: SamplingOptions,
    /// Most first codes; a frame exists for each code that was fed back, so there is one frame fewer.
    pub max_codes: usize,
    /// The code that ends the speech; `None` for the config's.
    pub end_code: Option<u32>,
}

/// Why the speech ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpeechFinish {
    /// The talker chose its end code.
    End,
    /// The limit on codes was reached, or the talker's context is full.
    Limit,
}

/// One run of the talker, between frames.
#[derive(Debug)]
pub struct Speaking {
    state: TalkerState,
    sampler: Sampler,
    max_codes: usize,
    end_code: u32,
    delta: f32,
    /// `[1, D]`: the state that the first code was chosen from.
    hidden: Tensor<2>,
    code: u32,
    codes: usize,
    /// `[1, D]`: the summed embeddings of a frame that was made and not yet fed back, in f32.
    made: Option<Tensor<2>>,
    finish_reason: Option<SpeechFinish>,
}

impl Speaking {
    /// The first code of the next frame, or the end code.
    pub fn first_code(&self) -> u32 {
        self.code
    }

    /// Why the speech ended, once it has.
    pub fn finish_reason(&self) -> Option<SpeechFinish> {
        self.finish_reason
    }

    /// The talker's state, which holds the prompt's positions and one per frame that was fed back.
    pub fn state(&self) -> &TalkerState {
        &self.state
    }

    /// Returns the caches and drops everything else.
    pub fn into_state(self) -> TalkerState {
        self.state
    }

    /// Takes the residual codes that were made from `start`, to be fed back; returns the frame's codes `[Q]`.
    pub fn take_frame(&mut self, start: FrameStart, frame: FrameCodes) -> Vec<u32> {
        self.made = Some(start.first.cast(DType::F32) + frame.embeds.cast(DType::F32));
        std::iter::once(self.code).chain(frame.residual).collect()
    }

    /// The talker's next input; `None` if no frame was made.
    fn next_input(&mut self, text: &Tensor<2>, probe: &mut dyn SpeakProbe) -> Option<TalkerInput> {
        let embeds = self.made.take()? + text.clone().cast(DType::F32);
        let position = self.state.tokens() as f32 + self.delta;
        probe.input(&embeds, position);
        Some(TalkerInput { embeds, positions: Positions::sequence(position, 1) })
    }

    /// Chooses the first code of the next frame.
    fn take_output(&mut self, output: TalkerOutput, probe: &mut dyn SpeakProbe) -> Result<()> {
        probe.choose(&output, &self.sampler);
        self.code = choose(&mut self.sampler, output.logits, probe)?;
        self.hidden = output.hidden;
        self.codes += 1;
        self.notice_end();
        Ok(())
    }

    fn notice_end(&mut self) {
        if self.code == self.end_code {
            self.finish_reason = Some(SpeechFinish::End);
        } else if self.codes >= self.max_codes {
            self.finish_reason = Some(SpeechFinish::Limit);
        }
    }
}

/// Observes each step of a run, for parity tests. The empty probe `()` costs nothing.
pub trait SpeakProbe {
    /// Logits of a first code, the state they come from, and the sampler that will choose.
    fn choose(&mut self, _output: &TalkerOutput, _sampler: &Sampler) {}
    /// The first code that was chosen; returns the one to go on with.
    fn chosen(&mut self, code: u32) -> u32 {
        code
    }
    /// Input of a step `[1, D]` and its position.
    fn input(&mut self, _embeds: &Tensor<2>, _position: f32) {}
}

impl SpeakProbe for () {}

/// Chooses the first code of a frame.
fn choose(sampler: &mut Sampler, logits: Logits, probe: &mut dyn SpeakProbe) -> Result<u32> {
    let chosen = sampler.choose(logits);
    sampler.check("talker")?;
    let code = probe.chosen(chosen);
    sampler.accept(code);
    Ok(code)
}

/// One run that feeds a frame back.
pub struct Advance<'a> {
    /// The run.
    pub speaking: &'a mut Speaking,
    /// `[1, D]`: the row of the next token of text, of the text's end, or the prompt's pad after it.
    pub text: &'a Tensor<2>,
    /// Observes the step.
    pub probe: Option<&'a mut dyn SpeakProbe>,
}

impl std::fmt::Debug for Advance<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Advance").finish_non_exhaustive()
    }
}

impl Talker {
    /// Reads the prompt and chooses the first code.
    ///
    /// `positions` belong to the prompt; a later step at cache length `n` sits at `n + delta`.
    ///
    /// # Errors
    /// The errors of [`Talker::forward`]; [`omni_core::Error::NotFinite`] if a logit is NaN or infinite.
    pub fn begin(
        &self,
        prompt: &TalkerPrompt,
        positions: (Positions, f32),
        options: &SpeakOptions,
        probe: &mut dyn SpeakProbe,
    ) -> Result<Speaking> {
        let mut state = self.start();
        let input = prompt.input(0..prompt.ids.len(), &positions.0);
        let output = self.forward(vec![TalkerRun::new(&mut state, &input)]).remove(0)?;
        self.begin_after((state, output), positions.1, options, probe)
    }

    /// Begins from a state that has read the prompt ([`TalkerPrompt::input`]), and the output for its last row.
    ///
    /// # Errors
    /// [`omni_core::Error::NotFinite`] if a logit is NaN or infinite.
    pub fn begin_after(
        &self,
        (state, output): (TalkerState, TalkerOutput),
        delta: f32,
        options: &SpeakOptions,
        probe: &mut dyn SpeakProbe,
    ) -> Result<Speaking> {
        let end_code = options.end_code.unwrap_or(self.end_code());
        // Every code but the last is fed back, and each needs a position.
        let room = (self.context_length() + 1).saturating_sub(state.tokens());
        let mut sampler = Sampler::new(&options.sampling, self.suppressed(end_code));
        probe.choose(&output, &sampler);
        let code = choose(&mut sampler, output.logits, probe)?;
        let mut speaking = Speaking {
            state,
            sampler,
            max_codes: options.max_codes.min(room),
            end_code,
            delta,
            hidden: output.hidden,
            code,
            codes: 1,
            made: None,
            finish_reason: None,
        };
        speaking.notice_end();
        Ok(speaking)
    }

    /// What the code predictor starts each run's next frame from; no text is needed yet.
    pub fn frame_starts(&self, runs: &[&mut Speaking]) -> Vec<FrameStart> {
        let codes: Vec<u32> = runs.iter().map(|run| run.code).collect();
        if codes.is_empty() {
            return Vec::new();
        }
        let rows = self.known_codec_rows(&codes); // [runs, D]
        let each = runs.iter().enumerate();
        each.map(|(at, run)| FrameStart { hidden: run.hidden.clone(), first: rows.clone().narrow(0, at, 1) }).collect()
    }

    /// Feeds back the frame that each run has made, with its next row of text, and chooses the first code of the next frame. Does
    /// nothing for a run that has made no frame; a run that cannot take its row fails alone.
    ///
    /// # Errors
    /// The errors of [`Talker::forward`]; [`omni_core::Error::NotFinite`] if a logit is NaN or infinite.
    pub fn advance(&self, runs: Vec<Advance>) -> Vec<Result<()>> {
        let (mut taking, mut inputs) = (Vec::new(), Vec::new());
        for Advance { speaking, text, probe } in runs {
            let mut nobody = ();
            let input = match probe {
                Some(probe) => {
                    let input = speaking.next_input(text, probe);
                    taking.push((speaking, Some(probe)));
                    input
                }
                None => {
                    let input = speaking.next_input(text, &mut nobody);
                    taking.push((speaking, None));
                    input
                }
            };
            inputs.push(input);
        }
        let steps = taking
            .iter_mut()
            .zip(&inputs)
            .filter_map(|((speaking, _), input)| Some(TalkerRun::new(&mut speaking.state, input.as_ref()?)));
        let mut outputs = self.forward(steps.collect()).into_iter();
        let taken = taking.into_iter().zip(inputs).map(|((speaking, probe), input)| {
            if input.is_some() {
                let output = outputs.next().expect("one output for each run that made a frame")?;
                speaking.take_output(output, probe.unwrap_or(&mut ()))?;
            }
            Ok(())
        });
        taken.collect()
    }

    /// Control ids are never spoken, but the end code may be chosen.
    fn suppressed(&self, end_code: u32) -> Suppressed {
        let vocabulary = self.vocabulary();
        let ids = vocabulary.saturating_sub(CONTROL_CODES) as u32..vocabulary as u32;
        Suppressed { ids, except: Some(end_code) }
    }
}
