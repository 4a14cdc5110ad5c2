//! Reads checkpoint directories in Hugging Face layout, for any model.
//!
//! [`Checkpoint::open`] reads `config.json`, maps the safetensors shards into memory and parses each header once. A model reads
//! its [`ConfigSection`]; [`record`] lists the tensors that its loading function asks for, and [`Checkpoint::check`] compares
//! names and shapes with that list before any weight is read. The matrix of a linear layer may be packed ([`Checkpoint::packed`]).
//! [`Weights`] then hands tensors to the model, by name, in the number type of the computation, with the [`Adapter`]s that were
//! added to the checkpoint merged.

mod adapter;
mod arena;
mod check;
mod config_file;
mod directory;
mod error;
mod manifest;
mod memory_estimate;
mod packed_layer;
mod quantization;
mod random;
mod shard;
mod stored;
mod weights;

pub mod packed;

pub use adapter::Adapter;
pub use config_file::{ConfigFault, ConfigFile, ConfigSection, read_json};
pub use directory::{Checkpoint, MOST_TENSORS, UNFINISHED};
pub use error::{CheckpointError, Mismatch, TensorReport};
pub use manifest::{Expected, Manifest, TensorKind};
pub use memory_estimate::MemoryEstimate;
pub use omni_core::{Dtype, Place, PlaceKind};
pub use packed::Scheme;
pub use packed_layer::PackedTensors;
pub use quantization::QuantizationConfig;
pub use random::{RandomCheckpoint, random_range};
pub use shard::Tensor as StoredTensor;
pub use stored::StoredMatrix;
pub use weights::{LoadProgress, ProgressFn, Weights, param_id, record};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
