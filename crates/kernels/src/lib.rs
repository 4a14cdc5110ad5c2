//! Arithmetic on slices in host memory, with the processor's widest vectors and all cores.
//!
//! Nothing here knows of tensors, models or files: the `nn` crate of this family calls these functions where a tensor lies in
//! host memory. Which instructions are used is decided when the program runs (AVX-512, AVX2, NEON, or plain code), so that one
//! build runs everywhere. Work is spread over the current `rayon` pool.
//!
//! ```
//! use qwen3_omni_kernels::{LinearShape, Precision, Weight, linear};
//!
//! // Two rows of three numbers, a weight [2, 3], a bias [2].
//! let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
//! let weight = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0];
//! let shape = LinearShape { rows: 2, input: 3, output: 2 };
//! let y = linear(&x, Weight::F32(&weight), Some(&[0.5, 0.0]), shape, Precision::Full);
//! assert_eq!(y, [1.5, 5.0, 4.5, 11.0]);
//! ```

#![allow(clippy::needless_range_loop)] // Loops of constant length over several arrays at once, which become registers.

mod attention;
mod cache;
mod conv;
mod conv2d;
mod conv_direct;
mod conv_layout;
mod conv_time;
mod elementwise;
mod experts;
mod few;
#[cfg(target_arch = "x86_64")]
mod half;
#[cfg(target_arch = "x86_64")]
mod half_attention;
#[cfg(target_arch = "x86_64")]
mod half_cache;
#[cfg(target_arch = "x86_64")]
mod half_linear;
mod half_pairs;
mod lanes;
mod level;
mod linear;
mod memory;
mod small;
mod tile;
mod weight;

pub use attention::{AttentionShape, window_attention};
pub use cache::{KvPages, Run, cached_attention};
pub use conv_direct::{Conv1d, Conv2dStack, Conv2dWeights};
pub use conv_time::ConvStream;

pub use elementwise::{Snake, gelu, gelu_tanh};
pub use experts::{Choice, Expert, ExpertsMemory, experts};
pub use few::{Inputs, MANY, Product, products};
pub use level::{SimdLevel, simd_level};
pub use linear::{Affine, LinearShape, Precision, Then, linear, linear_to};
pub use memory::read_all;
pub use small::{layer_norm, rms_norm, rms_norm_in_place, rotate, rotate_rows, sigmoid, silu_multiply};
pub use weight::{Packed, Scales, Weight};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
