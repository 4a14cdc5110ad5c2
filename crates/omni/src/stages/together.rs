//! What answers compute together: tokens of the thinker, frames of the talker and the code predictor.

use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use moe_talker::Speaking;
use moe_thinker::{Thinker, ThinkerState};
use mtp::{CodePredictor, PredictorState};
use nn::RUNS_AT_ONCE;
use omni_core::{DecoderInput, FrameCodes, FrameStart, Result, SamplingOptions};

use super::Frame;
use crate::batch::Batch;
use crate::omni::SpeechParts;

/// Where answers meet.
pub(crate) struct Together {
    pub(crate) thinker: Batch<Token, Result<Scores>>,
    pub(crate) talker: Batch<Speech, Result<Spoken>>,
}

/// A token to be read, by the state that reads it.
pub(crate) type Token = (ThinkerState, DecoderInput);
/// That state, and the scores `[1, V]` of the next token.
pub(crate) type Scores = (ThinkerState, Tensor<2>);

/// A run of the talker that is to make a frame.
pub(crate) struct Speech {
    pub(crate) speaking: Speaking<Timed>,
    /// `[1, 1, D]`: the row of text that goes with the frame made before; `None` before the first one.
    pub(crate) text: Option<Tensor<3>>,
}

/// That run, and the frame; none when the speech has ended.
pub(crate) type Spoken = (Speaking<Timed>, Option<Frame>);

impl Together {
    /// In host memory, answers share each reading of the weights. On other devices each computes for itself.
    pub(crate) fn new(device: &Device) -> Self {
        let most = if checkpoint::is_host(device) { RUNS_AT_ONCE } else { 1 };
        Self { thinker: Batch::new(most), talker: Batch::new(most) }
    }
}

/// One token of each.
pub(crate) fn tokens(thinker: &Thinker, tokens: Vec<Token>) -> Vec<Result<Scores>> {
    let (mut states, inputs): (Vec<_>, Vec<_>) = tokens.into_iter().unzip();
    let scores = thinker.step_many(states.iter_mut().zip(inputs).collect());
    states.into_iter().zip(scores).map(|(state, scores)| Ok((state, scores?))).collect()
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
