//! Layers that two or more of the Qwen3-Omni crates share.
//!
//! Attention with its KV cache and mask, RMSNorm, linear layers on `[out, in]` weights, the gated MLP, the
//! mixture-of-experts block, the decoder stack made of them, and the sampler. Everything runs on any burn device; number
//! types below f32 are widened where the reference widens them (softmax, norms, router).

mod attention;
mod decoder;
mod gelu;
mod host;
mod host_decoder;
mod host_encoder;
mod kv_cache;
mod linear;
mod mask;
mod matrix;
mod mlp;
pub mod moe;
mod norm;
mod probe;
pub mod sampler;
mod together;
mod window;

pub use attention::{Attention, AttentionRun, AttentionSpec};
pub use decoder::{
    Decoder, DecoderLayer, DecoderRun, DecoderSpec, DecoderState, FeedForward, FeedForwardSpec, decoder_spec, on_pool,
};
pub use gelu::{gelu, gelu_tanh};
pub use host::{numbers, with_numbers};
pub use host_encoder::{EncoderLayer, EncoderMemory};
pub use kernels::Then;
pub use kv_cache::KvCache;
pub use linear::{Embedding, LayerNorm, Linear, id_row};
pub use mask::{Mask, MaskSpec};
pub use matrix::{HostMatrix, Matrix, PackedTensor};
pub use mlp::GatedMlp;
pub use norm::RmsNorm;
pub use omni_core::SamplingOptions;
pub use probe::Probe;
pub use sampler::Sampler;
pub use together::{RUNS_AT_ONCE, head_of_each, pieces};
pub use window::window_attention;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
