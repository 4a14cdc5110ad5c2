//! Training of Qwen3-Omni: losses, optimiser and stages of the technical report (paper, sections 3 and 4), over the same model code
//! that answers.
//!
//! A model loaded on an autodiff device is trainable: its parameters carry the names of the checkpoint ([`ParamNames`]), a stage names
//! those it trains ([`Patterns`]), a loss ([`loss`]) gives gradients by name ([`Gradients`]), and [`optim::AdamW`] takes the step.
//! [`data`] reads conversations and makes batches of them, and [`verify`] recomputes stored losses, gradients and steps of a reference.

mod at_once;
pub mod data;
mod error;
mod fan_in;
pub mod lora;
pub mod loss;
mod mixture;
pub mod model;
pub mod optim;
pub mod pairs;
mod params;
mod patterns;
mod random;
pub mod reward;
pub mod stage;
pub mod trainer;
pub mod verify;

pub use error::{Error, Result};
pub use mixture::Mixture;
pub use params::{Gradients, ParamNames};
pub use patterns::Patterns;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
