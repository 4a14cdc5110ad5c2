//! Attention: causal over paged keys and values, and full inside windows of rows.

mod paged;
mod paged_attention;
#[cfg(target_arch = "x86_64")]
mod paged_bf16;
mod softmax;
mod task;
mod windowed;
#[cfg(target_arch = "x86_64")]
mod windowed_bf16;

pub use paged::PagedKv;
pub use paged_attention::{Run, cached_attention};
pub use windowed::{AttentionShape, window_attention};
