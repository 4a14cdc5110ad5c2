//! CPU kernels on slices in host memory: GEMM, attention, convolutions, norms and activations, with SIMD on all cores.
//!
//! Nothing here knows of tensors, models or files: the `nn` crate of this family calls these functions where a tensor lies in
//! host memory. The instruction set is chosen when the program runs (AVX-512, AVX2, NEON, or scalar code), so that one build
//! runs everywhere. Work is spread over the current `rayon` pool.
//!
//! ```
//! use qwen3_omni_cpu_kernels::{LinearShape, Precision, Weight, linear};
//!
//! // Two rows of three numbers, a weight [2, 3], a bias [2].
//! let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
//! let weight = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0];
//! let shape = LinearShape { rows: 2, input: 3, output: 2 };
//! let y = linear(&x, Weight::F32(&weight), Some(&[0.5, 0.0]), shape, Precision::F32);
//! assert_eq!(y, [1.5, 5.0, 4.5, 11.0]);
//! ```

#![allow(clippy::needless_range_loop)] // Loops of constant length over several arrays at once, which become registers.

mod activation;
mod attention;
mod buffer;
mod conv;
mod gemm;
mod gradient;
mod moe;
mod norm;
mod rope;
mod simd;

pub use activation::{Snake, elu, gelu, gelu_tanh, sigmoid, silu_multiply};
pub use attention::{AttentionShape, CachedRun, PagedKv, cached_attention, window_attention};
pub use buffer::read_all;
pub use conv::{
    Conv1d, Conv1dGradients, Conv2dGradients, Conv2dStack, Conv2dStackGradients, Conv2dWeights, ConvStream,
    TrainedConv1d, TrainedConv2dStack,
};
pub use gemm::{
    Activations, Epilogue, GemvOp, LinearArgs, LinearShape, Packed, Precision, SKINNY_MAX_ROWS, Scales, Weight,
    gemv_batch, linear, linear_to,
};
pub use gradient::{
    gelu_backward, label_log_probs, label_log_probs_backward, rms_norm_rows, rms_norm_rows_backward, rotate_heads,
    silu_gate, silu_gate_backward, softmax_rows, softmax_rows_backward,
};
pub use moe::{Assignment, Expert, ExpertsScratch, experts};
pub use norm::{layer_norm, rms_norm, rms_norm_in_place};
pub use rope::{rotate, rotate_rows};
pub use simd::{SimdLevel, simd_level};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
