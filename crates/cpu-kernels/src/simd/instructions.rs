//! Instructions that were found. Whoever holds one may run its code.

#[cfg(target_arch = "aarch64")]
use super::detect::has_neon;
#[cfg(target_arch = "x86_64")]
use super::detect::{has_amx, has_avx2, has_avx512, has_bf16};
use super::level::SimdLevel;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::scalar::Scalar;
use super::vector::{Simd, Split};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// Instruction sets that [`Simd`] is implemented for. Whoever holds one may run its code: values are only made where the
/// instructions were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Found),
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Found),
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon(Found),
    /// Scalar code, which every processor runs.
    Scalar,
}

/// Proof that instructions were found; only this module makes one.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found(());

impl Instructions {
    /// The best instructions up to `level` that the processor has.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn up_to(level: SimdLevel) -> Self {
        if level >= SimdLevel::Avx512 && has_avx512() && is_x86_feature_detected!("avx512vnni") {
            Self::Avx512(Found(()))
        } else if level >= SimdLevel::Avx2 && has_avx2() {
            Self::Avx2(Found(()))
        } else {
            Self::Scalar
        }
    }

    /// The best instructions up to `level` that the processor has.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn up_to(level: SimdLevel) -> Self {
        if level >= SimdLevel::Neon && has_neon() { Self::Neon(Found(())) } else { Self::Scalar }
    }

    /// The best instructions: there are none but scalar code.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(crate) fn up_to(_: SimdLevel) -> Self {
        Self::Scalar
    }

    /// How these instructions want activations packed beside packed weights.
    pub(crate) fn split(self) -> Split {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::SPLIT,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::SPLIT,
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => Neon::SPLIT,
            Self::Scalar => Scalar::SPLIT,
        }
    }
}

/// Instructions that multiply bf16 numbers. Whoever holds one may run its code: values are only made where the instructions were
/// found. AMX is only used where there is AVX-512 BF16 as well, which rounds its operands.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bf16Instructions {
    /// AMX: tile registers.
    Amx(Found),
    /// AVX-512 BF16.
    Avx512(Found),
}

#[cfg(target_arch = "x86_64")]
impl Bf16Instructions {
    /// The best instructions up to `level` that the processor has and the operating system allows.
    pub(crate) fn up_to(level: SimdLevel) -> Option<Self> {
        if level >= SimdLevel::Amx && has_amx() {
            Some(Self::Amx(Found(())))
        } else if level >= SimdLevel::Avx512 && has_bf16() {
            Some(Self::Avx512(Found(())))
        } else {
            None
        }
    }
}
