//! GPU kernels of the Qwen3-Omni crates, in CubeCL, on burn tensors.
//!
//! Each function is one formula in a few launches. Beside its kernel stands a body in plain burn operations: the reference that the
//! kernel is compared with, and what runs on every other device. Which of the two runs is decided by the tensors alone: the kernel
//! takes tensors of a CubeCL device that track no gradients, because a kernel has no backward pass and would cut the gradient.
//! Sums are in f32 and in a fixed order that does not depend on the number of rows, so a row's result is the same in any company.

// The arguments of a kernel are its buffers and sizes.
#![allow(clippy::too_many_arguments)]

mod attend;
mod bias;
mod cache;
mod convolution;
mod decode_attention;
mod depthwise;
mod draw;
mod embed;
mod experts;
#[cfg(cube)]
mod flash;
mod gate;
mod grouped;
#[cfg(cube)]
mod launch;
#[cfg(cube)]
mod launches;
mod layer_norm;
mod linear;
mod norm;
#[cfg(cube)]
mod online_softmax;
mod packed;
mod rotation;
mod router;
#[cfg(cube)]
mod rows;
mod softmax;
mod stream;
#[cfg(cube)]
mod tiles;
mod windows;

pub use attend::{attend, attends};
pub use bias::{BiasActivation, activate_biased, add_bias, add_biased, adds_bias, gelu, gelu_tanh};
pub use cache::write_rows;
pub use convolution::{Convolution, ConvolutionKind, Snake, convolve, upsample};
pub use decode_attention::{CachedRun, decode_attention, decodes};
pub use depthwise::{DepthwiseRun, depthwise};
pub use draw::{Chosen, Draw, NEVER, draw, greedy, min_p, soften, top_k, top_p};
pub use embed::{embed_add, embeds};
pub use experts::{Matrices, experts};
pub use gate::{add_gated, silu_gate};
pub use grouped::{experts_grouped, experts_grouped_packed};
#[cfg(cube)]
pub use launches::{Launches, counted};
pub use layer_norm::{LayerNormWeights, add_layer_norm, layer_norm};
pub use linear::{SKINNY_MAX_ROWS, add_linear, linear, linear_gate, norm_linear, norm_linear_gate, takes_norm};
pub use norm::{PreNorm, rms_norm};
pub use packed::{
    Packed, PackedMatrices, add_linear_packed, experts_packed, linear_gate_packed, linear_packed, norm_linear_packed,
};
pub use rotation::{rms_norm_rotate, rotate};
pub use router::route;
pub use softmax::softmax;
pub use stream::share_stream;
pub use windows::{Windows, attend_windows, window_attention};

/// Removes what pads the rows of a tensor, as uploads leave it on some devices, so that kernels need not copy it.
pub fn contiguous<const D: usize>(x: burn::tensor::Tensor<D>) -> burn::tensor::Tensor<D> {
    #[cfg(cube)]
    if let Some(packed) = launch::floats(&x) {
        return launch::tensor(packed);
    }
    x
}

/// [`contiguous`] of integers.
pub fn contiguous_integers<const D: usize>(
    x: burn::tensor::Tensor<D, burn::tensor::Int>,
) -> burn::tensor::Tensor<D, burn::tensor::Int> {
    #[cfg(cube)]
    if let Some(packed) = launch::integers(&x) {
        return launch::integer_tensor(packed);
    }
    x
}

/// The bodies in plain burn operations, which run on every device and let gradients through.
pub mod reference {
    pub use crate::attend::plain as attend;
    pub use crate::bias::{plain as add_bias, plain_activated as activate_biased, plain_add as add_biased};
    pub use crate::cache::plain as write_rows;
    pub use crate::convolution::{plain as convolve, plain_upsample as upsample};
    pub use crate::decode_attention::plain as decode_attention;
    pub use crate::depthwise::plain as depthwise;
    pub use crate::draw::{plain as draw, plain_greedy as greedy};
    pub use crate::embed::plain as embed_add;
    pub use crate::experts::plain as experts;
    pub use crate::gate::{plain as silu_gate, plain_add_gated as add_gated};
    pub use crate::layer_norm::{plain as layer_norm, plain_add as add_layer_norm};
    pub use crate::linear::{
        plain as linear, plain_add as add_linear, plain_gate as linear_gate, plain_normed as norm_linear,
    };
    pub use crate::norm::plain as rms_norm;
    pub use crate::rotation::{plain as rotate, plain_of_normed as rms_norm_rotate};
    pub use crate::router::plain as route;
    pub use crate::softmax::plain as softmax;
    pub use crate::windows::plain as window_attention;
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
