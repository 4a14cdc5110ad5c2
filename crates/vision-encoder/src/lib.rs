//! The vision encoder of Qwen3-Omni, after SigLIP2: patches of pictures and video to rows the thinker reads (paper, section
//! 2.2).
//!
//! Pictures keep their own size: a learned table of positions is resampled to each grid, and rotary positions in two
//! dimensions are added in every block. Four neighbouring patches become one row. Deepstack features of earlier blocks go
//! along; the thinker adds them after its first layers. Frames do not see each other, so long videos are encoded in batches
//! of frames, in memory that does not grow with them.

mod block;
mod config;
mod grid;
mod merger;
mod model;
mod pos_embed;
mod probe;
mod rotary2d;

pub use checkpoint::{Checkpoint, Weights};
pub use config::{PixelPatches, VisionConfig};
pub use model::VisionEncoder;
pub use omni_core::{Dtype, Encoded, Error, ModalityEncoder, Place, Result, SpanLayout};
pub use probe::VisionProbe;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
