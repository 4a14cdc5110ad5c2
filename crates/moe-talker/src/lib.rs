//! The talker of Qwen3-Omni: the mixture-of-experts model that turns the thinker's text into speech codes (paper,
//! section 2.4; the middle box of figure 2).
//!
//! [`Talker::prompt`] lays out the conversation's user part and the opening of the answer, whose text is added to the codec's
//! control ids; [`Talker::begin`] chooses the first code. A frame then takes three steps: [`Talker::frame_starts`] returns what the
//! code predictor starts from, [`Speaking::take_frame`] takes the residual codes it makes, and [`Talker::advance`] feeds the frame
//! back with one row of text.

mod config;
mod model;
mod projection;
mod prompt;
mod speak;
mod speaker;

pub use checkpoint::{Checkpoint, Weights};
pub use config::{CONTROL_CODES, TalkerConfig, Turns, talker_spec};
pub use model::{Talker, TalkerInput, TalkerOutput, TalkerRun, TalkerState, TalkerStates};
pub use nn::{DecoderConfig, Logits};
pub use omni_core::{Dtype, FrameCodes, FrameStart, Place, Positions, SamplingOptions};
pub use projection::ResizeMlp;
pub use prompt::{TalkerContext, TalkerPrompt};
pub use speak::{Advance, SpeakOptions, SpeakProbe, Speaking, SpeechFinish};
pub use speaker::speaker_id;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
