//! The multi-token predictor (MTP) of Qwen3-Omni: the residual codes of one codec frame (paper, section 2.4).
//!
//! For each frame a small dense decoder starts afresh from two rows, the talker's state and the first code's embedding,
//! and writes the codes of the other codebooks one after another.

mod config;
mod draft;
mod model;
mod predict;
mod run;
mod teacher_forcing;

pub use checkpoint::{Checkpoint, Weights};
pub use config::{CodePredictorConfig, predictor_spec};
pub use model::CodePredictor;
pub use omni_core::{Dtype, FrameCodes, FrameStart, Place, SamplingOptions};
pub use run::{DraftCounts, FrameRun, MAX_DRAFT_CODES, PredictorProbe, PredictorState};
pub use teacher_forcing::GivenFrames;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
