//! What answers compute together: prompts and tokens of the thinker, prompts and frames of the talker with the code predictor,
//! pieces of the vocoder.

use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use code2wav::{Code2Wav, VocoderRun, VocoderState};
use moe_talker::{Advance, Speaking, Talker, TalkerInput, TalkerOutput, TalkerRun, TalkerState};
use moe_thinker::{Thinker, ThinkerInput, ThinkerOutput, ThinkerRun, ThinkerState};
use mtp::{FrameRun, PredictorState};
use nn::SKINNY_MAX_ROWS;
use omni_core::Result;

use super::Frame;
use crate::batch::{Batch, Limit};
use crate::omni::SpeechParts;

/// Where answers meet.
pub(crate) struct Together {
    /// Pieces of prompts, read by the thinker.
    pub(crate) prompts: Batch<Tokens, Scored>,
    /// The last token of each answer, read by the thinker.
    pub(crate) thinker: Batch<Tokens, Scored>,
    /// Pieces of the talker's prompts.
    pub(crate) talker_prompts: Batch<TalkerRows, Heard>,
    /// Frames of talker and code predictor.
    pub(crate) talker: Batch<Speech, Spoken>,
    /// Pieces of sound.
    pub(crate) vocoder: Batch<Frames, Sound>,
}

/// Tokens to be read, by the state that reads them.
pub(crate) type Tokens = (ThinkerState, ThinkerInput);
/// That state, and what it makes of them.
pub(crate) type Scored = (ThinkerState, Result<ThinkerOutput>);

/// A prompt's rows for the talker, by the state that reads them.
pub(crate) type TalkerRows = (TalkerState, TalkerInput);
/// That state, and what it makes of them.
pub(crate) type Heard = (TalkerState, Result<TalkerOutput>);

/// Frames that are to become sound, by the stream they belong to.
pub(crate) type Frames = (VocoderState, Vec<Frame>);
/// That stream, and its sound.
pub(crate) type Sound = (VocoderState, Result<Vec<f32>>);

/// A run of the talker that is to make a frame.
pub(crate) struct Speech {
    pub(crate) speaking: Speaking,
    pub(crate) predictor: PredictorState,
    /// `[1, D]`: the row of text that goes with the frame made before; `None` before the first one.
    pub(crate) text: Option<Tensor<2>>,
}

/// That run, and the frame; none when the speech has ended.
pub(crate) struct Spoken {
    pub(crate) speaking: Speaking,
    pub(crate) predictor: PredictorState,
    pub(crate) frame: Result<Option<Frame>>,
    /// Time the code predictor took for all frames of the step.
    pub(crate) predicting: Duration,
}

/// Rows of prompts that are read together, and of one that joins others. Longer ones read all weights by themselves, and would keep
/// short ones waiting.
const ROWS: usize = 128;
const LONGEST: usize = 64;
/// Frames that become sound together.
const FRAMES: usize = 16;
/// How long the vocoder waits for other answers' frames: a piece of sound comes only every few frames.
const PATIENCE: Duration = Duration::from_millis(2);

impl Together {
    /// Where the engine batches, answers share each reading of the weights; otherwise each computes for itself.
    pub(crate) fn new(batches: bool) -> Self {
        let most = if batches { SKINNY_MAX_ROWS } else { 1 };
        Self {
            prompts: Batch::new(prompts(most, |(_, input)| input.positions.tokens())),
            thinker: Batch::new(Limit::jobs(most)),
            talker_prompts: Batch::new(prompts(most, |(_, input)| input.positions.tokens())),
            talker: Batch::new(Limit::jobs(most)),
            vocoder: Batch::new(Limit {
                weight: FRAMES,
                joining: 1..=FRAMES,
                weigh: |(_, frames)| frames.len(),
                patience: PATIENCE,
                ..Limit::jobs(most)
            }),
        }
    }
}

/// Few rows are computed another way, for them the faster one, and do not join.
fn prompts<Job>(most: usize, rows: fn(&Job) -> usize) -> Limit<Job> {
    Limit { weight: ROWS, joining: SKINNY_MAX_ROWS + 1..=LONGEST, weigh: rows, ..Limit::jobs(most) }
}

/// The tokens of each.
pub(crate) fn tokens(thinker: &Thinker, steps: Vec<Tokens>) -> Vec<Scored> {
    with_states(steps, |steps| {
        thinker.forward(steps.iter_mut().map(|(state, input)| ThinkerRun::new(state, input)).collect())
    })
}

/// The rows of each.
pub(crate) fn rows(talker: &Talker, steps: Vec<TalkerRows>) -> Vec<Heard> {
    with_states(steps, |steps| {
        talker.forward(steps.iter_mut().map(|(state, input)| TalkerRun::new(state, input)).collect())
    })
}

/// The sound of each.
pub(crate) fn sounds(vocoder: &Code2Wav, steps: Vec<Frames>) -> Vec<Sound> {
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
pub(crate) fn frames(parts: &SpeechParts, mut speeches: Vec<Speech>) -> Vec<Spoken> {
    let mut errors = feed_back(parts, &mut speeches);
    let started = Instant::now();
    let mut made = predict(parts, &mut speeches, &mut errors).into_iter();
    let predicting = started.elapsed();
    let each = speeches.into_iter().zip(errors).map(|(Speech { speaking, predictor, .. }, error)| {
        let frame = match error {
            Some(error) => Err(error),
            None => Ok(made.next().expect("one result for each run that speaks")),
        };
        Spoken { speaking, predictor, frame, predicting }
    });
    each.collect()
}

/// Feeds the frames that were made back; what went wrong for each.
fn feed_back(parts: &SpeechParts, speeches: &mut [Speech]) -> Vec<Option<omni_core::Error>> {
    let texts: Vec<Option<Tensor<2>>> = speeches.iter_mut().map(|speech| speech.text.take()).collect();
    let runs = speeches.iter_mut().zip(&texts).filter_map(|(speech, text)| {
        Some(Advance { speaking: &mut speech.speaking, text: text.as_ref()?, probe: None })
    });
    let mut taken = parts.talker.advance(runs.collect()).into_iter();
    let error = |text: &Option<Tensor<2>>| text.as_ref().and_then(|_| taken.next()?.err());
    texts.iter().map(error).collect()
}

/// The next frame of each run without an error; none where the speech has ended.
fn predict(
    parts: &SpeechParts,
    speeches: &mut [Speech],
    errors: &mut [Option<omni_core::Error>],
) -> Vec<Option<Frame>> {
    let speaks =
        |speech: &Speech, error: &Option<omni_core::Error>| error.is_none() && speech.speaking.stop().is_none();
    let (mut runs, mut states, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (place, (speech, error)) in speeches.iter_mut().zip(&*errors).enumerate() {
        if speaks(speech, error) {
            runs.push(&mut speech.speaking);
            states.push(&mut speech.predictor);
            places.push(place);
        }
    }
    let starts = parts.talker.frame_starts(&runs);
    let frames = states.into_iter().zip(&starts).map(|(state, start)| FrameRun::new(state, start));
    let mut made: Vec<Option<Frame>> = errors.iter().map(|_| None).collect();
    match parts.code_predictor.predict(frames.collect()) {
        Ok(frames) => {
            let each = runs.into_iter().zip(starts).zip(frames);
            places.iter().zip(each).for_each(|(place, ((run, start), frame))| {
                made[*place] = Some(run.take_frame(start, frame));
            });
        }
        // The rows come from the talker: a wrong one is a wrong checkpoint, and concerns all of them.
        Err(error) => {
            let reason = error.to_string();
            places.iter().for_each(|place| errors[*place] = Some(omni_core::Error::Device(reason.clone())));
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
            let together = &omni.inner().together;
            let largest = [
                together.prompts.largest(),
                together.thinker.largest(),
                together.talker_prompts.largest(),
                together.talker.largest(),
                together.vocoder.largest(),
            ];
            if largest.iter().all(|jobs| *jobs > 1) {
                return;
            }
        }
        panic!("four answers at once, twenty times, never shared a step of some stage");
    }
}
