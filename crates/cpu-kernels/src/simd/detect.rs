//! Detection: the instructions that the processor has and the operating system allows.
#![allow(unsafe_code)]

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
use std::arch::x86_64::__cpuid_count;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// Whether the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether the processor has AVX-512 F, BW and VL, and what compilers assume along with them.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

/// Whether the processor has NEON.
#[cfg(target_arch = "aarch64")]
pub(super) fn has_neon() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

/// Whether the processor has every feature that the bf16 kernels are compiled with.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_bf16() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512bf16")
}

/// Whether AMX may be used, and AVX-512 BF16 with it, which rounds its operands.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_amx() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| has_bf16() && amx_allowed())
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
