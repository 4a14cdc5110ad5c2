//! SIMD: which instructions the processor has, and vectors of them behind one trait.
//!
//! `level` caps what `detect` found at `QWEN3_OMNI_SIMD`; a [`Processor`] carries the [`Instructions`] of each kind, and holding
//! some is the proof that their code may run. The skinny GEMM and paged attention are written over the trait [`Simd`],
//! which `avx512`, `avx2`, `neon` and `scalar` implement; it exists because `pulp` has no products of 16-bit integers, which
//! packed weights need. The f32 GEMM, norms and activations use `pulp` itself (its `Arch`). `bf16` converts that
//! number type.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bf16;
mod detect;
mod instructions;
mod level;
#[cfg(target_arch = "aarch64")]
mod neon;
mod processor;
mod scalar;
mod vector;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use bf16::{narrow, widen};
#[cfg(target_arch = "x86_64")]
pub(crate) use instructions::Bf16Instructions;
pub(crate) use instructions::Instructions;
pub use level::{SimdLevel, simd_level};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use processor::Processor;
#[cfg(test)]
pub(crate) use processor::tests;
pub(crate) use scalar::Scalar;
pub(crate) use vector::{PIECE, Simd, Split, Stored, Vectorized};
