//! What threads that have ended used on a GPU is used again.
#![cfg(all(feature = "wgpu", target_os = "linux"))]
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, DeviceKind, Tensor};
use nn::DeviceEngine;
use omni_core::Dtype;

/// Bytes of the process in memory, which on a driver in software are those on the device, too.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap() << 10
}

#[test]
fn answers_in_threads_of_their_own_cost_no_memory_for_good() {
    const SIDE: usize = 2048;
    let engine = DeviceEngine::new(&Device::wgpu(DeviceKind::DefaultDevice), Dtype::F32);
    let answer = || {
        let device = engine.device().clone();
        let sum = move || {
            let x = Tensor::<2>::ones([SIDE, SIDE], &device);
            (x.clone() + x).mean().into_scalar::<f32>()
        };
        assert_eq!(std::thread::spawn(sum).join().unwrap(), 2.0);
    };
    (0..3).for_each(|_| answer());
    let before = resident();
    (0..20).for_each(|_| answer());
    let grown = resident().saturating_sub(before);
    // Each holds two matrices of 16 MiB for a moment.
    assert!(grown < 5 * SIDE * SIDE * size_of::<f32>(), "{} MiB for 20 answers", grown >> 20);
}
