//! Matrix products: skinny ones of a few rows with weights as they lie in a file, and those of many rows, in single precision or with
//! bf16 operands.

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(target_arch = "x86_64")]
mod bf16_block;
#[cfg(target_arch = "x86_64")]
mod bf16_operand;
mod dot;
mod f32;
mod linear;
mod microkernel;
mod pairs;
mod shape;
mod skinny;
mod weight;

pub use activations::Activations;
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16::{block_of_pairs, linear_here};
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16_block::{Block, PairColumns, Shift, Tiles, WeightRows, block};
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
pub(crate) use weight::Matrix;
#[cfg(test)]
pub(crate) use weight::tests as weight_tests;
pub use weight::{Packed, Scales, Weight};
