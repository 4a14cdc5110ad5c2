//! SIMD: which instructions the processor has, and vectors of them behind one trait.
//!
//! `level` detects the instruction sets once and caps them at `QWEN3_OMNI_SIMD`; a [`Processor`] carries what was found, and
//! holding one is the proof that its code may run. The skinny GEMM and paged attention are written over the trait [`Simd`],
//! which `avx512`, `avx2`, `neon` and `scalar` implement; it exists because `pulp` has no products of 16-bit integers, which
//! packed weights need. The f32 GEMM, norms and activations use `pulp` itself (its `Arch`). `bf16` holds the number type and the
//! instructions that multiply it, AVX-512 BF16 and AMX.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bf16;
mod level;
#[cfg(target_arch = "aarch64")]
mod neon;
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
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use scalar::Scalar;
pub(crate) use vector::{Instructions, PIECE, Simd, Split, Stored, Vectorized};
