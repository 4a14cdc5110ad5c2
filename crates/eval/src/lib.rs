//! How good a model is: error rates with the field's normalisers, and suites of recognition, questions and speech.
//!
//! [`Suite::read`] makes [`Item`]s of files in the usual forms, [`Evaluation::run`] asks them, [`Report::new`] sums up. The program
//! `qwen3-omni-eval` does all three; [`normalise`], [`wer`] and [`extract`] stand on their own.

mod codec;
mod error;
pub mod extract;
mod item;
pub mod normalise;
mod pattern;
mod recogniser;
mod report;
mod run;
mod score;
mod suites;
pub mod wer;

pub use codec::Codec;
pub use error::{Error, Result};
pub use item::{Expected, Item, Sound, Task};
pub use recogniser::{AutClipRecogniser, Clip, CommandRecogniser, ModelRecogniser, Recogniser};
pub use report::{Group, Report};
pub use run::{Evaluation, ItemsFile, Outcome, Outcomes, Settings};
pub use score::Score;
pub use suites::{ReadOptions, Suite};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
