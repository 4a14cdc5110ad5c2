//! What answers compute together: prompts and tokens of the thinker, prompts and frames of the talker with the code predictor,
//! pieces of the vocoder.

use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use code2wav::{Code2Wav, VocoderState};
use moe_talker::{Speaking, Talker, TalkerState};
use moe_thinker::{Thinker, ThinkerState};
use mtp::{CodePredictor, PredictorState};
use nn::RUNS_AT_ONCE;
use omni_core::{
    CodeFrames, DecoderInput, FrameCodes, FrameStart, Result, SamplingOptions, TalkerInput, TalkerOutput,
    ThinkerOutput, Waveform,
};

use super::Frame;
use crate::batch::{Batch, Limit};
use crate::omni::SpeechParts;

/// Where answers meet.
pub(crate) struct Together {
    /// With pieces of their prompts.
    pub(crate) prompts: Batch<Tokens, Result<Scored>>,
    /// With the token they have written.
    pub(crate) thinker: Batch<Tokens, Result<Scored>>,
    /// With their prompts for the talker.
    pub(crate) talker_prompts: Batch<TalkerRows, Result<Heard>>,
    pub(crate) talker: Batch<Speech, Result<Spoken>>,
    pub(crate) vocoder: Batch<Frames, Result<Sound>>,
}

/// Tokens to be read, by the state that reads them.
pub(crate) type Tokens = (ThinkerState, DecoderInput);
/// That state, and what it makes of them.
pub(crate) type Scored = (ThinkerState, ThinkerOutput);

/// A prompt's rows for the talker, by the state that reads them.
pub(crate) type TalkerRows = (TalkerState, TalkerInput);
/// That state, and what it makes of them.
pub(crate) type Heard = (TalkerState, TalkerOutput);

/// Frames that are to become sound, by the stream they belong to.
pub(crate) type Frames = (VocoderState, CodeFrames);
/// That stream, and its sound.
pub(crate) type Sound = (VocoderState, Waveform);

/// A run of the talker that is to make a frame.
pub(crate) struct Speech {
    pub(crate) speaking: Speaking<Timed>,
    /// `[1, 1, D]`: the row of text that goes with the frame made before; `None` before the first one.
    pub(crate) text: Option<Tensor<3>>,
}

/// That run, and the frame; none when the speech has ended.
pub(crate) type Spoken = (Speaking<Timed>, Option<Frame>);

/// Rows of prompts that are read together, and of one that joins others. Longer ones read all weights by themselves, and would keep
/// short ones waiting.
const ROWS: usize = 128;
const LONGEST: usize = 64;
/// Frames that become sound together.
const FRAMES: usize = 16;
/// How long the vocoder waits for other answers' frames: a piece of sound comes only every few frames.
const PATIENCE: Duration = Duration::from_millis(2);

impl Together {
    /// In host memory, answers share each reading of the weights. On other devices each computes for itself.
    pub(crate) fn new(device: &Device) -> Self {
        let most = if checkpoint::is_host(device) { RUNS_AT_ONCE } else { 1 };
        let weigh = |(_, input): &Frames| input.codes.dims()[2];
        Self {
            prompts: Batch::new(prompts(most, |(_, input)| input.positions.tokens())),
            thinker: Batch::new(Limit::jobs(most)),
            talker_prompts: Batch::new(prompts(most, |(_, input)| input.positions.tokens())),
            talker: Batch::new(Limit::jobs(most)),
            vocoder: Batch::new(Limit {
                weight: FRAMES,
                joining: 1..=FRAMES,
                weigh,
                patience: PATIENCE,
                ..Limit::jobs(most)
            }),
        }
    }
}

/// Few rows are computed another way, for them the faster one, and do not join.
fn prompts<Job>(most: usize, rows: fn(&Job) -> usize) -> Limit<Job> {
    Limit { weight: ROWS, joining: RUNS_AT_ONCE + 1..=LONGEST, weigh: rows, ..Limit::jobs(most) }
}

/// The tokens of each.
pub(crate) fn tokens(thinker: &Thinker, steps: Vec<Tokens>) -> Vec<Result<Scored>> {
    with_states(steps, |steps| thinker.step_many(steps))
}

/// The rows of each.
pub(crate) fn rows(talker: &Talker, steps: Vec<TalkerRows>) -> Vec<Result<Heard>> {
    with_states(steps, |steps| talker.step_many(steps))
}

/// The sound of each.
pub(crate) fn sounds(vocoder: &Code2Wav, steps: Vec<Frames>) -> Vec<Result<Sound>> {
    with_states(steps, |steps| vocoder.step_many(steps))
}

/// Lends the states out for a step of all of them.
fn with_states<State, Input, Output>(
    steps: Vec<(State, Input)>,
    step: impl FnOnce(Vec<(&mut State, Input)>) -> Vec<Result<Output>>,
) -> Vec<Result<(State, Output)>> {
    let (mut states, inputs): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
    let outputs = step(states.iter_mut().zip(inputs).collect());
    states.into_iter().zip(outputs).map(|(state, output)| Ok((state, output?))).collect()
}

/// One frame of each: the frame before is fed back with its row of text, and the next one is made.
pub(crate) fn frames(parts: &SpeechParts, mut speeches: Vec<Speech>) -> Vec<Result<Spoken>> {
    let (mut fed_back, mut places) = (Vec::new(), Vec::new());
    for (place, Speech { speaking, text }) in speeches.iter_mut().enumerate() {
        if let Some(text) = text.take() {
            fed_back.push((speaking, text));
            places.push(place);
        }
    }
    let taken = parts.talker.advance_many(&mut fed_back);
    let mut errors: Vec<_> = speeches.iter().map(|_| None).collect();
    places.into_iter().zip(taken).for_each(|(place, taken)| errors[place] = taken.err());
    let speaks = speeches.iter_mut().zip(&errors).filter(|(_, error)| error.is_none());
    let mut runs: Vec<_> = speaks.map(|(speech, _)| &mut speech.speaking).collect();
    let mut codes = parts.talker.codes_many(&mut runs, &parts.code_predictor).into_iter();
    let each = speeches.into_iter().zip(errors).map(|(speech, error)| match error {
        Some(error) => Err(error),
        None => Ok((speech.speaking, codes.next().expect("one result for each run that speaks"))),
    });
    each.collect()
}

/// The code predictor with a stopwatch in its state.
pub(crate) struct Timed(pub(crate) CodePredictor);

impl omni_core::CodePredictor for Timed {
    type State = (PredictorState, Duration);

    fn start(&self, sampling: &SamplingOptions) -> Self::State {
        (self.0.start(sampling), Duration::ZERO)
    }

    fn predict(&self, (state, spent): &mut Self::State, hidden: Tensor<3>, first: Tensor<3>) -> FrameCodes {
        let started = Instant::now();
        let codes = self.0.predict(state, hidden, first);
        *spent += started.elapsed();
        codes
    }

    fn predict_many(&self, frames: Vec<FrameStart<'_, Self::State>>) -> Vec<FrameCodes> {
        let started = Instant::now();
        let (mut starts, mut watches) = (Vec::new(), Vec::new());
        for FrameStart { state: (state, spent), hidden, first } in frames {
            starts.push(FrameStart { state, hidden, first });
            watches.push(spent);
        }
        let codes = self.0.predict_many(starts);
        watches.into_iter().for_each(|spent| *spent += started.elapsed());
        codes
    }
}
