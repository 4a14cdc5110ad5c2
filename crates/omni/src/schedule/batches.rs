//! What answers compute together: prompts and tokens of the thinker, prompts and frames of the talker with the code predictor,
//! pieces of the vocoder.

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

/// Where answers meet.
pub(crate) struct Batches {
    /// Pieces of prompts, read by the thinker.
    pub(crate) thinker_prefill: Batcher<ThinkerJob, ThinkerDone>,
    /// The last token of each answer, read by the thinker.
    pub(crate) thinker_decode: Batcher<ThinkerJob, ThinkerDone>,
    /// Pieces of the talker's prompts.
    pub(crate) talker_prefill: Batcher<TalkerJob, TalkerDone>,
    /// Frames of talker and code predictor.
    pub(crate) frames: Batcher<FrameJob, FrameDone>,
    /// Pieces of sound.
    pub(crate) vocoder: Batcher<VocoderJob, VocoderDone>,
}

/// Tokens to be read, by the state that reads them.
pub(crate) type ThinkerJob = (ThinkerState, ThinkerInput);
/// That state, and what it makes of them.
pub(crate) type ThinkerDone = (ThinkerState, Result<ThinkerOutput>);

/// A prompt's rows for the talker, by the state that reads them.
pub(crate) type TalkerJob = (TalkerState, TalkerInput);
/// That state, and what it makes of them.
pub(crate) type TalkerDone = (TalkerState, Result<TalkerOutput>);

/// Frames that are to become sound, by the stream they belong to.
pub(crate) type VocoderJob = (VocoderState, Vec<Frame>);
/// That stream, and its sound.
pub(crate) type VocoderDone = (VocoderState, Result<Vec<f32>>);

/// A run of the talker that is to make a frame.
pub(crate) struct FrameJob {
    pub(crate) speaking: Speaking,
    pub(crate) predictor: PredictorState,
    /// `[1, D]`: the row of text that goes with the frame made before; `None` before the first one.
    pub(crate) text: Option<Tensor<2>>,
}

/// That run, and the frame; none when the speech has ended.
pub(crate) struct FrameDone {
    pub(crate) speaking: Speaking,
    pub(crate) predictor: PredictorState,
    pub(crate) frame: Result<Option<Frame>>,
    /// Time the code predictor took for all frames of the step.
    pub(crate) predicting: Duration,
}

/// Rows of prompts that are read together, and of one that joins others. Longer ones read all weights by themselves, and would keep
/// short ones waiting.
const PREFILL_ROWS: usize = 128;
const PREFILL_LONGEST: usize = 64;
/// Frames that become sound together.
const VOCODER_FRAMES: usize = 16;
/// How long the vocoder waits for other answers' frames: a piece of sound comes only every few frames.
const VOCODER_MAX_WAIT: Duration = Duration::from_millis(2);

impl Batches {
    /// Where the engine batches, answers share each reading of the weights; otherwise each computes for itself.
    pub(crate) fn new(batches: bool) -> Self {
        let most = if batches { SKINNY_MAX_ROWS } else { 1 };
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

/// Few rows are computed another way, for them the faster one, and do not join.
fn prefill_limit<Job>(most: usize, rows: fn(&Job) -> usize) -> Limit<Job> {
    Limit { weight: PREFILL_ROWS, joining: SKINNY_MAX_ROWS + 1..=PREFILL_LONGEST, weigh: rows, ..Limit::jobs(most) }
}

/// The tokens of each.
pub(crate) fn forward_thinker_batch(thinker: &Thinker, steps: Vec<ThinkerJob>) -> Vec<ThinkerDone> {
    with_states(steps, |steps| {
        thinker.forward(steps.iter_mut().map(|(state, input)| ThinkerRun::new(state, input)).collect())
    })
}

/// The rows of each.
pub(crate) fn forward_talker_batch(talker: &Talker, steps: Vec<TalkerJob>) -> Vec<TalkerDone> {
    with_states(steps, |steps| {
        talker.forward(steps.iter_mut().map(|(state, input)| TalkerRun::new(state, input)).collect())
    })
}

/// The sound of each.
pub(crate) fn forward_vocoder_batch(vocoder: &Code2Wav, steps: Vec<VocoderJob>) -> Vec<VocoderDone> {
    with_states(steps, |steps| {
        let runs = steps.iter_mut().map(|(state, frames)| VocoderRun { state, frames });
        vocoder.forward(runs.collect())
    })
}

/// Lends the states out for a step of all of them; they come back, whatever becomes of it.
fn with_states<State, Input, Output>(
    mut steps: Vec<(State, Input)>,
    step: impl FnOnce(&mut [(State, Input)]) -> Vec<Result<Output>>,
) -> Vec<(State, Result<Output>)> {
    let outputs = step(&mut steps);
    steps.into_iter().zip(outputs).map(|((state, _), output)| (state, output)).collect()
}

/// One frame of each: the frame before is fed back with its row of text, and the next one is made.
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

/// Feeds the frames that were made back; what went wrong for each.
fn feed_back(talker: &Talker, jobs: &mut [FrameJob]) -> Vec<Option<omni_core::Error>> {
    let texts: Vec<Option<Tensor<2>>> = jobs.iter_mut().map(|speech| speech.text.take()).collect();
    let runs = jobs.iter_mut().zip(&texts).filter_map(|(speech, text)| {
        Some(Advance { speaking: &mut speech.speaking, text: text.as_ref()?, probe: None })
    });
    let mut taken = talker.advance(runs.collect()).into_iter();
    let error = |text: &Option<Tensor<2>>| text.as_ref().and_then(|_| taken.next()?.err());
    texts.iter().map(error).collect()
}

/// The next frame of each run without an error; none where the speech has ended.
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
            indices.iter().zip(each).for_each(|(index, ((run, start), frame))| {
                made[*index] = Some(run.take_frame(start, frame));
            });
        }
        // The rows come from the talker: a wrong one is a wrong checkpoint, and concerns all of them.
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
        // Whether they meet is a matter of time; that they never do in so many answers is a matter of code.
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
