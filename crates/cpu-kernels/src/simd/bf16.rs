//! bf16 numbers, and the instructions that multiply them.
#![allow(unsafe_code)]

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
use std::arch::x86_64::__cpuid_count;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::level::SimdLevel;
#[cfg(target_arch = "x86_64")]
use super::vector::has_avx512;

/// Widens a bf16 number to f32.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds to the nearest bf16 number, ties to even.
#[inline(always)]
pub(crate) fn narrow(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16) as u16
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

/// Proof that instructions were found; only this module makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found(());

#[cfg(target_arch = "x86_64")]
impl Bf16Instructions {
    /// The best instructions up to `level` that the processor has and the operating system allows.
    pub(crate) fn up_to(level: SimdLevel) -> Option<Self> {
        if level >= SimdLevel::Amx && Self::has_amx() {
            Some(Self::Amx(Found(())))
        } else if level >= SimdLevel::Avx512 && Self::has_bf16() {
            Some(Self::Avx512(Found(())))
        } else {
            None
        }
    }

    /// Whether the processor has every feature that the bf16 kernels are compiled with.
    fn has_bf16() -> bool {
        has_avx512() && is_x86_feature_detected!("avx512bf16")
    }

    pub(crate) fn has_amx() -> bool {
        static HAS: OnceLock<bool> = OnceLock::new();
        *HAS.get_or_init(|| Self::has_bf16() && amx_allowed())
    }
}

/// Whether there are AMX tile registers, and the operating system lets this process use them.
#[cfg(target_arch = "x86_64")]
fn amx_allowed() -> bool {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        // Leaf 7 exists: AVX-512, which was detected first, is reported there.
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        const ARCH_PRCTL: u64 = 158;
        const REQUEST_PERMISSION: u64 = 0x1023;
        const TILE_DATA: u64 = 18;
        if __cpuid_count(7, 0).edx & (AMX_BF16 | AMX_TILE) != AMX_BF16 | AMX_TILE {
            return false;
        }
        let result: i64;
        // SAFETY: asks the system for the use of tile registers; an old system answers with an error. No memory is touched, and
        // the registers that a system call changes are declared.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") REQUEST_PERMISSION,
                in("rsi") TILE_DATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    false
}
