//! The steps that are batched over answers: prefill and decode of the thinker, prefill of the talker, codec frames of talker and code
//! predictor, and the vocoder's pieces.

use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use code2wav::{Code2Wav, VocoderRun, VocoderState};
use moe_talker::{Advance, Speaking, Talker, TalkerInput, TalkerOutput, TalkerRun, TalkerState};
use moe_thinker::{Thinker, ThinkerInput, ThinkerOutput, ThinkerRun, ThinkerState};
use mtp::{CodePredictor, FrameRun, PredictorState};
use nn::SKINNY_MAX_ROWS;
use omni_core::Result;

use super::batcher::{Batcher, Limit};

/// The codes of a codec frame `[Q]`.
pub(crate) type Frame = Vec<u32>;

/// The batchers of a model, one per kind of step.
pub(crate) struct Batches {
    /// Chunks of the thinker's prompts.
    pub(crate) thinker_prefill: Batcher<ThinkerJob, ThinkerDone>,
    /// Decode steps of the thinker, a token each.
    pub(crate) thinker_decode: Batcher<ThinkerJob, ThinkerDone>,
    /// Chunks of the talker's prompts.
    pub(crate) talker_prefill: Batcher<TalkerJob, TalkerDone>,
    /// Steps of talker and code predictor, a codec frame each.
    pub(crate) frames: Batcher<FrameJob, FrameDone>,
    /// Pieces of the vocoder's sound.
    pub(crate) vocoder: Batcher<VocoderJob, VocoderDone>,
}

/// A step of the thinker: the state and its new tokens.
pub(crate) type ThinkerJob = (ThinkerState, ThinkerInput);
/// The state after a step of the thinker, and the output.
pub(crate) type ThinkerDone = (ThinkerState, Result<ThinkerOutput>);

/// A step of the talker: the state and new rows of its prompt.
pub(crate) type TalkerJob = (TalkerState, TalkerInput);
/// The state after a step of the talker, and the output.
pub(crate) type TalkerDone = (TalkerState, Result<TalkerOutput>);

/// A step of the vocoder: the state and its new frames.
pub(crate) type VocoderJob = (VocoderState, Vec<Frame>);
/// The state after a step of the vocoder, and the samples.
pub(crate) type VocoderDone = (VocoderState, Result<Vec<f32>>);

/// A step of talker and code predictor: one codec frame.
pub(crate) struct FrameJob {
    pub(crate) speaking: Speaking,
    pub(crate) predictor: PredictorState,
    /// `[1, D]`: the text row that is fed back with the last frame; `None` before the first frame.
    pub(crate) text: Option<Tensor<2>>,
}

/// The result of a [`FrameJob`]; no frame when the speech has ended.
pub(crate) struct FrameDone {
    pub(crate) speaking: Speaking,
    pub(crate) predictor: PredictorState,
    pub(crate) frame: Result<Option<Frame>>,
    /// Time that the code predictor took for all frames of the batch.
    pub(crate) predicting: Duration,
}

/// Most rows of one prefill batch, and of a chunk that joins one. A longer chunk reads all weights anyway, and would make short ones
/// wait.
const PREFILL_ROWS: usize = 128;
const PREFILL_LONGEST: usize = 64;
/// Most frames of one vocoder batch.
const VOCODER_FRAMES: usize = 16;
/// Most time to wait for other answers' pieces: each has one only every few frames.
const VOCODER_MAX_WAIT: Duration = Duration::from_millis(2);

impl Batches {
    /// Makes the batchers. With `share`, answers are batched; otherwise each step is computed alone.
    pub(crate) fn new(share: bool) -> Self {
        let most = if share { SKINNY_MAX_ROWS } else { 1 };
        Self {
            thinker_prefill: Batcher::new(prefill_limit(most, |(_, input)| input.positions.tokens())),
            thinker_decode: Batcher::new(Limit::jobs(most)),
            talker_prefill: Batcher::new(prefill_limit(most, |(_, input)| input.positions.tokens())),
            frames: Batcher::new(Limit::jobs(most)),
            vocoder: Batcher::new(Limit {
                weight: VOCODER_FRAMES,
                joining: 1..=VOCODER_FRAMES,
                weigh: |(_, frames)| frames.len(),
                max_wait: VOCODER_MAX_WAIT,
                ..Limit::jobs(most)
            }),
        }
    }
}

/// Limits for chunks of prompts. Up to [`SKINNY_MAX_ROWS`] rows are computed alone: skinny GEMM is faster for them.
fn prefill_limit<Job>(most: usize, rows: fn(&Job) -> usize) -> Limit<Job> {
    Limit { weight: PREFILL_ROWS, joining: SKINNY_MAX_ROWS + 1..=PREFILL_LONGEST, weigh: rows, ..Limit::jobs(most) }
}

/// Computes a batch of thinker steps.
pub(crate) fn forward_thinker_batch(thinker: &Thinker, steps: Vec<ThinkerJob>) -> Vec<ThinkerDone> {
    with_states(steps, |steps| {
        thinker.forward(steps.iter_mut().map(|(state, input)| ThinkerRun::new(state, input)).collect())
    })
}

/// Computes a batch of talker steps.
pub(crate) fn forward_talker_batch(talker: &Talker, steps: Vec<TalkerJob>) -> Vec<TalkerDone> {
    with_states(steps, |steps| {
        talker.forward(steps.iter_mut().map(|(state, input)| TalkerRun::new(state, input)).collect())
    })
}

/// Computes a batch of vocoder steps.
pub(crate) fn forward_vocoder_batch(vocoder: &Code2Wav, steps: Vec<VocoderJob>) -> Vec<VocoderDone> {
    with_states(steps, |steps| {
        let runs = steps.iter_mut().map(|(state, frames)| VocoderRun { state, frames });
        vocoder.forward(runs.collect())
    })
}

/// Borrows the states for a batched step and returns each with its output, error or not.
fn with_states<State, Input, Output>(
    mut steps: Vec<(State, Input)>,
    step: impl FnOnce(&mut [(State, Input)]) -> Vec<Result<Output>>,
) -> Vec<(State, Result<Output>)> {
    let outputs = step(&mut steps);
    steps.into_iter().zip(outputs).map(|((state, _), output)| (state, output)).collect()
}

/// Computes a batch of codec frames: feeds back each last frame with its text row, then makes the next.
pub(crate) fn forward_frame_batch(
    talker: &Talker,
    code_predictor: &CodePredictor,
    mut jobs: Vec<FrameJob>,
) -> Vec<FrameDone> {
    let mut errors = feed_back(talker, &mut jobs);
    let started = Instant::now();
    let mut made = predict(talker, code_predictor, &mut jobs, &mut errors).into_iter();
    let predicting = started.elapsed();
    let each = jobs.into_iter().zip(errors).map(|(FrameJob { speaking, predictor, .. }, error)| {
        let frame = match error {
            Some(error) => Err(error),
            None => Ok(made.next().expect("one result for each run that speaks")),
        };
        FrameDone { speaking, predictor, frame, predicting }
    });
    each.collect()
}

/// Feeds back the last frames; returns the error of each job.
fn feed_back(talker: &Talker, jobs: &mut [FrameJob]) -> Vec<Option<omni_core::Error>> {
    let texts: Vec<Option<Tensor<2>>> = jobs.iter_mut().map(|speech| speech.text.take()).collect();
    let runs = jobs.iter_mut().zip(&texts).filter_map(|(speech, text)| {
        Some(Advance { speaking: &mut speech.speaking, text: text.as_ref()?, probe: None })
    });
    let mut taken = talker.advance(runs.collect()).into_iter();
    let error = |text: &Option<Tensor<2>>| text.as_ref().and_then(|_| taken.next()?.err());
    texts.iter().map(error).collect()
}

/// Makes the next frame of each job without an error; `None` where the speech has ended.
fn predict(
    talker: &Talker,
    code_predictor: &CodePredictor,
    jobs: &mut [FrameJob],
    errors: &mut [Option<omni_core::Error>],
) -> Vec<Option<Frame>> {
    let speaks = |speech: &FrameJob, error: &Option<omni_core::Error>| {
        error.is_none() && speech.speaking.finish_reason().is_none()
    };
    let (mut runs, mut states, mut indices) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (speech, error)) in jobs.iter_mut().zip(&*errors).enumerate() {
        if speaks(speech, error) {
            runs.push(&mut speech.speaking);
            states.push(&mut speech.predictor);
            indices.push(index);
        }
    }
    let starts = talker.frame_starts(&runs);
    let frames = states.into_iter().zip(&starts).map(|(state, start)| FrameRun::new(state, start));
    let mut made: Vec<Option<Frame>> = errors.iter().map(|_| None).collect();
    match code_predictor.predict(frames.collect()) {
        Ok(frames) => {
            let each = runs.into_iter().zip(starts).zip(frames);
            indices.iter().zip(each).for_each(|(index, ((run, start), frame))| match frame {
                Ok(frame) => made[*index] = Some(run.take_frame(start, frame)),
                Err(error) => errors[*index] = Some(error),
            });
        }
        // The rows come from the talker: a wrong shape is a wrong checkpoint, and concerns all jobs.
        Err(error) => {
            let reason = error.to_string();
            indices.iter().for_each(|index| errors[*index] = Some(omni_core::Error::Device(reason.clone())));
        }
    }
    made.into_iter().zip(&*errors).filter(|(_, error)| error.is_none()).map(|(frame, _)| frame).collect()
}

#[cfg(test)]
mod tests {
    use crate::{GenerateOptions, Message, Omni};

    #[test]
    fn answers_that_are_made_at_once_do_share_steps_of_every_stage() {
        let omni = Omni::builder(testkit::nano()).load().unwrap();
        let questions =
            ["repeat red cat nine", "repeat blue dog two", "what is nine minus two", "repeat one two three"];
        // Whether one pair of answers meets is chance; that none ever does is a bug.
        for _ in 0..20 {
            std::thread::scope(|scope| {
                for question in questions {
                    let omni = &omni;
                    scope.spawn(move || {
                        omni.generate(&[Message::user().text(question)], &GenerateOptions::default().greedy()).unwrap()
                    });
                }
            });
            let batches = &omni.model().batches;
            let largest = [
                batches.thinker_prefill.largest(),
                batches.thinker_decode.largest(),
                batches.talker_prefill.largest(),
                batches.frames.largest(),
                batches.vocoder.largest(),
            ];
            if largest.iter().all(|jobs| *jobs > 1) {
                return;
            }
        }
        panic!("four answers at once, twenty times, never shared a step of some stage");
    }
}
