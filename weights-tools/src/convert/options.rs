//! Options of a conversion.

use std::path::PathBuf;

use omni_core::Dtype;

/// What to convert, and into what.
#[derive(Debug, Clone)]
pub struct Options {
    /// A checkpoint directory.
    pub source: PathBuf,
    /// Adapters (LoRA) in PEFT's form to merge; see [`OmniCheckpoint::add_adapter`](qwen3_omni::OmniCheckpoint::add_adapter).
    pub adapters: Vec<PathBuf>,
    /// The directory to make; it must be new, empty, or half-written by the same options.
    pub out: PathBuf,
    /// Number type of every float tensor that is not part of a packed layer; `None` keeps each one's own.
    pub dtype: Option<Dtype>,
    /// Turn packed layers into floats, of the type of their scales unless `dtype` says another.
    pub dequantize: bool,
    /// Bytes after which a new shard is begun.
    pub shard_bytes: u64,
    /// Start over if the directory is half-written.
    pub restart: bool,
}
