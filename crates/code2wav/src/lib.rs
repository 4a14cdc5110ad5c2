//! Code2Wav of Qwen3-Omni: the causal ConvNet vocoder that turns codec frames into 24 kHz sound (paper, section 2.4).
//!
//! One path computes everything: a step takes any number of frames and carries the state on, so a stream gives the samples of the
//! whole decode however its frames are split. [`Code2Wav::decode`] is one step from a fresh state; [`Code2Wav::decode_chunked`] is
//! the reference's approximation with a left context.
//!
//! Each decoder block looks one step ahead, so `F` frames give `F * samples_per_frame - lookahead` samples.

mod config;
mod conv;
mod convnext;
mod decoder_block;
mod engine;
mod history;
mod model;
mod pre_transformer;
mod probe;
mod snake;
mod stream;
mod trained;

pub use checkpoint::{Checkpoint, Weights};
pub use config::Code2WavConfig;
pub use model::{Code2Wav, VocoderRun, VocoderState};
pub use omni_core::{Dtype, Place};
pub use probe::VocoderProbe;
pub use stream::Chunking;

/// Samples per second.
pub const SAMPLE_RATE: u32 = 24_000;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
