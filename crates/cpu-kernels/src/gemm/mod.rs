//! GEMM: `y = x Wᵀ` for linear layers, on three paths.
//!
//! Up to [`SKINNY_MAX_ROWS`] rows take the skinny GEMM (`skinny`, with its inner loops in `dot`), which is bound by memory
//! bandwidth and reads weights in place, in f32, bf16 or packed integers. More rows take a blocked GEMM: in f32 (`f32`, around
//! the register tile of `microkernel`), or with bf16 operands and f32 sums where that was asked for and the processor has AVX-512
//! BF16 or AMX (`bf16`, its blocks in `bf16_block` and `amx`, their operands in `bf16_layout`, made by `bf16_operand`). `linear`
//! chooses the path and applies the bias and the [`Epilogue`]. `weight` holds the weights of all paths, `activations` the packed
//! rows of the skinny GEMM. Attention and convolutions with bf16 operands are built from the same blocks.

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(target_arch = "x86_64")]
mod bf16_block;
#[cfg(target_arch = "x86_64")]
mod bf16_layout;
#[cfg(target_arch = "x86_64")]
mod bf16_operand;
mod dot;
mod f32;
mod linear;
mod microkernel;
mod pairs;
mod shape;
mod skinny;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod weight;

pub use activations::Activations;
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16::{block_of_pairs, linear_here};
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16_block::block;
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16_layout::{Block, PairColumns, Shift, WeightRows};
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16_operand::round_pairs;
pub use linear::{LinearArgs, gemv_batch, linear, linear_to};
pub(crate) use microkernel::{Microkernel, VECTORS, transpose};
pub(crate) use pairs::{SIDE, TILE, join};
pub use shape::{Epilogue, LinearShape, Precision};
#[cfg(test)]
pub(crate) use skinny::tests;
pub use skinny::{GemvOp, SKINNY_MAX_ROWS};
pub(crate) use skinny::{multiply, pieces};
#[cfg(target_arch = "x86_64")]
pub(crate) use tiles::Tiles;
pub(crate) use weight::Matrix;
#[cfg(test)]
pub(crate) use weight::tests as weight_tests;
pub use weight::{Packed, Scales, Weight};
