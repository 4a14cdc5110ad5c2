//! Layers that two or more of the Qwen3-Omni crates share, written once over an [`Engine`].
//!
//! Causal attention with its KV cache, RMSNorm and LayerNorm, linear layers on `[out, in]` weights, the gated MLP, the
//! mixture-of-experts block, the decoder stack made of them, an encoder's layer, and the sampler. Number types below f32 are widened
//! where the reference widens them (softmax, norms, router).

mod activation;
mod attention;
mod config;
mod decoder;
mod encoder_layer;
mod engine;
mod fused;
mod heads;
mod host_gradient;
mod kv_cache;
mod linear;
mod mask;
mod matrix;
mod mlp;
pub mod moe;
mod norm;
mod probe;
mod runs;
pub mod sampler;
mod tensors;

pub use activation::Activation;
pub use attention::{Attention, AttentionSpec};
pub use config::{DecoderConfig, RopeKeys, VariantKeys, validate_heads};
pub use decoder::{
    Decoder, DecoderLayer, DecoderRun, DecoderSpec, DecoderState, FeedForward, FeedForwardSpec, decoder_spec,
};
pub use encoder_layer::{EncoderLayer, QkvProjection};
pub use engine::{AnyEngine, DeviceEngine, DeviceRows, Engine, HostEngine, HostRows, Qkv, Run, RunLength, WeightedRow};
pub use heads::Heads;
pub use host_gradient::{HostFunction, HostInput, Values, has_host_gradients, host_function};
pub use kv_cache::KvCache;
pub use linear::{Embedding, Linear};
pub use matrix::{HostMatrix, HostVector, Matrix, PackedTensor, Vector};
pub use mlp::GatedMlp;
pub use norm::{LayerNorm, RmsNorm};
pub use omni_core::{SamplingOptions, VisualRows};
pub use probe::Probe;
pub use runs::{admitted, last_rows};
pub use sampler::{Logits, Sampler};
pub use tensors::{to_f32_vec, with_f32_slice};

/// Most single-token runs that the host engine batches with results equal to those of each run alone: up to this many rows the
/// kernels compute each row on its own, reading the weights once for all.
pub use cpu_kernels::SKINNY_MAX_ROWS;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
