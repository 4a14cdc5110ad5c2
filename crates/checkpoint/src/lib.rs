//! Reads Qwen3-Omni checkpoint directories in Hugging Face layout.
//!
//! [`Checkpoint::open`] reads `config.json` (both key styles), maps the safetensors shards into memory and parses each
//! header once. [`Checkpoint::check`] compares names and shapes with what the config asks for, before any weight is
//! read; the matrix of a linear layer may lie there packed ([`Checkpoint::packed`]). [`Weights`] then hands tensors to
//! the model crates, by name, in the number type of the computation.

mod arena;
mod check;
mod config;
mod directory;
mod error;
mod manifest;
mod need;
mod packed_layer;
mod quantization;
mod random;
mod stored;
mod weights;

pub mod packed;

pub use config::{
    AudioConfig, CONTROL_CODES, Code2WavConfig, CodePredictorConfig, DecoderConfig, OmniConfig, TalkerConfig,
    ThinkerConfig, VisionConfig,
};
pub use directory::{Checkpoint, Tensor as StoredTensor, UNFINISHED};
pub use error::{CheckpointError, Mismatch, TensorReport};
pub use manifest::{Component, Manifest, expected, is_linear};
pub use need::MemoryNeed;
pub use omni_core::{Dtype, Place, PlaceKind};
pub use packed::Scheme;
pub use packed_layer::PackedTensors;
pub use quantization::QuantizationConfig;
pub use random::{RandomCheckpoint, random_range};
pub use stored::StoredMatrix;
pub use weights::{LoadProgress, ProgressFn, Weights};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
