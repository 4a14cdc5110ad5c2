//! TM-RoPE, the time-aligned multimodal rotary position embedding of Qwen3-Omni (paper, section 2.1).
//!
//! Two steps, kept apart:
//! 1. [`positions`]: from a list of spans (text, sound, pictures, video, sound in video) to three-axis float positions
//!    and the position delta of the decode steps.
//! 2. [`Rope`]: from positions to tables of cosines and sines, which the engines apply to queries and keys.
//!
//! Positions and tables are made on the host in f32, so that they are the same on every device.

mod config;
mod layout;
mod positions;
mod table;

pub use config::RopeConfig;
pub use layout::MediaLayout;
pub use omni_core::{Positions, SpanLayout};
pub use positions::{MediaIds, MediaItem, interleave, left_padded, positions, scan_spans};
pub use table::Rope;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
