//! Attention: causal over a paged KV cache, and full inside windows of rows.
//!
//! The decoders use paged attention. [`PagedKv`] (`paged`) stores keys and values in pages of 64 tokens, and [`cached_attention`]
//! (`paged_attention`) attends the new rows of several runs to them, in tiles of queries that share a KV head, with an online
//! softmax: in f32 (`task`), or with bf16 operands where there are enough queries (`paged_bf16`). The encoders
//! use [`window_attention`] (`windowed`, `windowed_bf16`), which computes each head of each window by two GEMMs around a
//! `softmax`.

mod paged;
mod paged_attention;
#[cfg(target_arch = "x86_64")]
mod paged_bf16;
mod softmax;
mod task;
mod window_head;
mod windowed;
#[cfg(target_arch = "x86_64")]
mod windowed_bf16;

pub use paged::PagedKv;
pub use paged_attention::{CachedRun, cached_attention};
pub(crate) use softmax::softmax;
pub use windowed::{AttentionShape, window_attention};
