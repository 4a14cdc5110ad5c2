//! The thinker of Qwen3-Omni: the mixture-of-experts language model that reads every modality and writes text (paper,
//! section 2.2; the large box of figure 2).
//!
//! Prompts and generated tokens go through the same [`Thinker::forward`]. Media enter as embedded rows with their deepstack
//! features ([`VisualRows`]); the states of the accepted layer leave through the *tap*, for the talker.

mod config;
mod merge;
mod model;
mod tap;

pub use checkpoint::{Checkpoint, Weights};
pub use config::{ThinkerConfig, media_ids, thinker_spec};
pub use merge::{MediaRows, merge};
pub use model::{Thinker, ThinkerHidden, ThinkerInput, ThinkerOutput, ThinkerRun, ThinkerState, ThinkerStates};
pub use nn::{DecoderConfig, Logits};
pub use omni_core::{Dtype, Place, Positions, VisualRows};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
