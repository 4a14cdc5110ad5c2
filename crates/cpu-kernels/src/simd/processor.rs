//! The processor that code runs on: the instructions of each kind, up to a level.

use std::sync::OnceLock;

use pulp::Arch;

#[cfg(target_arch = "x86_64")]
use super::instructions::Bf16Instructions;
use super::instructions::Instructions;
use super::level::{SimdLevel, simd_level};

/// Instruction sets that may be run on this processor; each was detected, so that holding one is proof of it.
#[derive(Clone, Copy)]
pub(crate) struct Processor {
    /// The level it was capped at.
    level: SimdLevel,
    /// For the skinny GEMM and paged attention.
    pub(crate) instructions: Instructions,
    /// For GEMM with bf16 operands, if the processor has such instructions.
    #[cfg(target_arch = "x86_64")]
    pub(crate) bf16: Option<Bf16Instructions>,
    /// For everything else, through `pulp`.
    pub(crate) arch: Arch,
}

impl Processor {
    /// The best of each kind up to `level`.
    fn up_to(level: SimdLevel) -> Self {
        Self {
            level,
            instructions: Instructions::up_to(level),
            #[cfg(target_arch = "x86_64")]
            bf16: Bf16Instructions::up_to(level),
            arch: arch(level),
        }
    }

    /// The processor at [`simd_level`].
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Processor> = OnceLock::new();
        *BEST.get_or_init(|| Self::up_to(simd_level()))
    }

    /// One processor for each level up to [`simd_level`]: tests go through all of them.
    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        SimdLevel::ALL.iter().filter(|level| **level <= simd_level()).map(|level| Self::up_to(*level))
    }

    /// The processors among [`Processor::all`] that multiply bf16.
    #[cfg(all(test, target_arch = "x86_64"))]
    pub(crate) fn with_bf16() -> impl Iterator<Item = (Self, Bf16Instructions)> {
        Self::all().filter_map(|processor| Some((processor, processor.bf16?)))
    }
}

impl std::fmt::Debug for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.level)
    }
}

#[cfg(target_arch = "x86_64")]
fn arch(level: SimdLevel) -> Arch {
    let avx512 = pulp::x86::V4::try_new().filter(|_| level >= SimdLevel::Avx512).map(Arch::V4);
    avx512
        .or_else(|| pulp::x86::V3::try_new().filter(|_| level >= SimdLevel::Avx2).map(Arch::V3))
        .unwrap_or(Arch::Scalar)
}

#[cfg(not(target_arch = "x86_64"))]
fn arch(level: SimdLevel) -> Arch {
    if level == SimdLevel::Scalar { Arch::Scalar } else { Arch::new() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::simd::level::VARIABLE;
    use proptest::prelude::ProptestConfig;

    /// `count` cases, or `PROPTEST_CASES`: tools that check every memory access take a thousand times as long.
    pub(crate) fn cases(count: u32) -> ProptestConfig {
        let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
        // Miri lets no program see its working directory, to which failures would be written.
        let failure_persistence = if cfg!(miri) { None } else { ProptestConfig::default().failure_persistence };
        ProptestConfig { cases: asked.unwrap_or(count), failure_persistence, ..ProptestConfig::default() }
    }

    /// `size`, or a sixth of it for Miri.
    pub(crate) fn up_to(size: usize) -> usize {
        if cfg!(miri) { size.div_ceil(6) } else { size }
    }

    #[test]
    fn the_level_in_use_is_the_processors_or_the_one_that_was_asked_for() {
        let asked = std::env::var(VARIABLE).ok();
        let limit = asked.map_or(SimdLevel::Amx, |name| {
            SimdLevel::named(&name).unwrap_or_else(|| panic!("{VARIABLE} is {name:?}, which names no level"))
        });
        let expected = SimdLevel::ALL.iter().rfind(|level| **level <= limit.min(SimdLevel::detected()));
        assert_eq!(Some(&simd_level()), expected);
        assert_eq!(Processor::best().level, simd_level());
        assert!(Processor::all().any(|processor| processor.level == simd_level()), "tests leave out the level in use");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn what_the_processor_has_is_used_unless_less_was_asked_for() {
        use std::arch::is_x86_feature_detected as has;
        let Processor { level, instructions, bf16, arch } = Processor::best();
        let limit = std::env::var(VARIABLE).ok().and_then(|name| SimdLevel::named(&name)).unwrap_or(SimdLevel::Amx);
        let avx2 = limit >= SimdLevel::Avx2 && has!("avx2") && has!("fma");
        let avx512 = limit >= SimdLevel::Avx512 && avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl");
        assert!(
            level
                >= if avx512 {
                    SimdLevel::Avx512
                } else if avx2 {
                    SimdLevel::Avx2
                } else {
                    SimdLevel::Scalar
                }
        );
        assert_eq!(matches!(instructions, Instructions::Avx512(_)), avx512 && has!("avx512vnni"));
        assert_eq!(matches!(instructions, Instructions::Scalar), !avx2);
        assert_eq!(bf16.is_some(), avx512 && has!("avx512bf16"));
        assert_eq!(matches!(bf16, Some(Bf16Instructions::Amx(_))), level == SimdLevel::Amx);
        let bits = has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt");
        assert_eq!(matches!(arch, Arch::V4(_)), avx512 && bits && has!("avx512cd") && has!("avx512dq"));
        assert_eq!(matches!(arch, Arch::Scalar), !(avx2 && bits));
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn neon_is_used_unless_less_was_asked_for() {
        let scalar = std::env::var(VARIABLE).is_ok_and(|name| name == "scalar");
        let Processor { level, instructions, arch } = Processor::best();
        assert_eq!(level, if scalar { SimdLevel::Scalar } else { SimdLevel::Neon });
        assert_eq!(matches!(instructions, Instructions::Scalar), scalar);
        assert_eq!(matches!(instructions, Instructions::Neon(_)), !scalar);
        assert_eq!(matches!(arch, Arch::Scalar), scalar);
    }
}
