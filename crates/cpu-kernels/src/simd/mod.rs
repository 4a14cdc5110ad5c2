//! Which instructions there are, and vectors of them behind one trait.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bf16;
mod level;
mod scalar;
mod vector;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16::Bf16Instructions;
pub(crate) use bf16::{narrow, widen};
pub(crate) use level::Processor;
#[cfg(test)]
pub(crate) use level::tests;
pub use level::{SimdLevel, simd_level};
pub(crate) use scalar::Scalar;
pub(crate) use vector::{Instructions, PIECE, Simd, Split, Stored};
