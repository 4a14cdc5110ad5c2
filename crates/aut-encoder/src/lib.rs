//! The AuT audio encoder of Qwen3-Omni: log-mel frames to rows the thinker reads, one per 80 ms (paper, section 2.2).
//!
//! Convolutions make 13 rows of each second, a transformer with attention inside windows of up to eight seconds processes them, and
//! two linear layers project them to the thinker's width. Windows are independent of each other, so sound of any length is encoded
//! in batches of windows, in memory that does not grow with it.
//!
//! [`AutDecoder`] is a text decoder behind it, which the released model does not have: with it the encoder is trained, and recognises
//! speech without the thinker.

mod config;
mod conv_stem;
mod decoder;
mod layer;
mod model;
mod positions;
mod probe;
mod windows;

pub use checkpoint::{Checkpoint, Weights};
pub use config::{AudioConfig, MEL_PER_SECOND};
pub use decoder::{AutDecoder, AutDecoderConfig, AutDecoderRun, AutDecoderState, DECODER_FILE, SearchOptions};
pub use model::AutEncoder;
pub use omni_core::{Dtype, Encoded, Error, ModalityEncoder, Place, Result, SpanLayout};
pub use positions::sinusoids;
pub use probe::AutProbe;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
