//! Instruction sets in use: those the processor has, capped by an environment variable.

use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use super::detect::has_neon;
#[cfg(target_arch = "x86_64")]
use super::detect::{has_amx, has_avx2, has_avx512};

/// The environment variable that caps [`simd_level`].
pub(super) const VARIABLE: &str = "QWEN3_OMNI_SIMD";

/// Instruction sets that this crate has code for; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SimdLevel {
    /// Scalar code, which every processor runs.
    Scalar,
    /// NEON (64-bit Arm).
    Neon,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW and VL; with VNNI, for packed weights, and BF16, for bf16 operands, where the processor has them.
    Avx512,
    /// AMX with BF16, for bf16 operands.
    Amx,
}

impl SimdLevel {
    /// Every level of this processor architecture.
    #[cfg(target_arch = "x86_64")]
    pub(super) const ALL: &[Self] = &[Self::Scalar, Self::Avx2, Self::Avx512, Self::Amx];
    #[cfg(target_arch = "aarch64")]
    pub(super) const ALL: &[Self] = &[Self::Scalar, Self::Neon];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(super) const ALL: &[Self] = &[Self::Scalar];

    /// The highest level that the processor has and the operating system allows.
    pub fn detected() -> Self {
        static DETECTED: OnceLock<SimdLevel> = OnceLock::new();
        *DETECTED.get_or_init(|| Self::up_to(Self::Amx))
    }

    fn up_to(limit: Self) -> Self {
        let found = Self::ALL.iter().copied().rfind(|level| *level <= limit && level.is_detected());
        found.unwrap_or(Self::Scalar)
    }

    fn is_detected(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => has_neon(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => has_amx(),
            #[allow(unreachable_patterns)] // Levels of another architecture.
            _ => false,
        }
    }

    /// The level that a value of the environment variable names.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "scalar" => Some(Self::Scalar),
            "neon" => Some(Self::Neon),
            "avx2" => Some(Self::Avx2),
            "avx512" => Some(Self::Avx512),
            "amx" => Some(Self::Amx),
            _ => None,
        }
    }
}

/// The instruction sets in use: the best that the processor has, capped at the level that the environment variable
/// `QWEN3_OMNI_SIMD` names (`scalar`, `neon`, `avx2`, `avx512` or `amx`; another value counts as none). It is read once.
pub fn simd_level() -> SimdLevel {
    static LEVEL: OnceLock<SimdLevel> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let asked = std::env::var(VARIABLE).ok().and_then(|name| SimdLevel::named(&name));
        SimdLevel::up_to(asked.unwrap_or(SimdLevel::Amx))
    })
}
