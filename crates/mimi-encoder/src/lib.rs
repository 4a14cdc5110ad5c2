//! The encoder of Mimi, the codec of Kyutai: 24 kHz sound in, codec frames out, 12.5 per second in the released model.
//!
//! The released Qwen3-Omni has a vocoder but no encoder of sound into codec frames. Its 16 codebooks are reported to be the first 16
//! of Mimi; that is not verified. A checkpoint is a directory in the layout of `kyutai/mimi`: `config.json` and `model.safetensors`.
//!
//! A SEANet of strided convolutions, a causal transformer with a sliding window and one more strided convolution make a latent per
//! frame; a split residual quantiser turns each into a semantic code and acoustic codes. Everything is causal, so a stream gives the
//! frames of the whole recording however its samples are split. Computed in f32 only: in coarser types the nearest vectors would be
//! other ones.

mod codebook;
mod config;
mod conv;
mod engine;
mod history;
mod model;
mod probe;
mod quantizer;
mod seanet;
mod transformer;

pub use checkpoint::{Checkpoint, Weights};
pub use config::MimiConfig;
pub use model::{MimiEncoder, MimiRun, MimiState};
pub use omni_core::{Error, Place, Result};
pub use probe::MimiProbe;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
