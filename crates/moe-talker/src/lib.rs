//! The talker of Qwen3-Omni: the mixture-of-experts model that turns the thinker's text into speech codes (paper,
//! section 2.4; the middle box of figure 2).
//!
//! [`Talker::prompt`] lays the conversation's user part and the opening of the answer side by side with the codec's
//! control ids; [`Talker::begin`] and [`Talker::frame`] then make one codec frame per call, taking one row of text each.
//! The code predictor is seen only through its trait in the contracts.

mod config;
mod model;
mod projection;
mod prompt;
mod speak;
mod speaker;
mod together;

pub use checkpoint::{Checkpoint, Component, TalkerConfig, Weights};
pub use config::{Turns, talker_spec};
pub use model::{Talker, TalkerState};
pub use omni_core::{CodePredictor, Dtype, Positions, SamplingOptions, Stage, TalkerInput, TalkerOutput};
pub use projection::ResizeMlp;
pub use prompt::{Conversation, TalkerPrompt};
pub use speak::{SpeakOptions, SpeakProbe, Speaking, SpeechStop};
pub use speaker::speaker_id;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
