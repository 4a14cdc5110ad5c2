//! Packed matrices give the same on a GPU, where kernels read them as they are packed, as on the CPU, where they are unpacked first.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, DeviceKind, Tensor, TensorData};
use checkpoint::{Checkpoint, Scheme, Weights};
use nn::moe::{MoeBlock, MoeSpec};
use nn::{AnyEngine, Engine, RmsNorm};
use omni_core::{Dtype, Place};
use qwen3_omni_testkit as testkit;

/// Outputs of a block with experts and a shared expert, all of whose matrices are packed alike on every device.
fn outputs(device: Device, scheme: &Scheme, rows: usize) -> Vec<f32> {
    let place = Place::Device(device.clone());
    let weights = Weights::random_packed(&place, Dtype::F32, scheme.clone());
    let spec = MoeSpec { experts: 6, top_k: 3, normalise: true, inner: 32, shared: 96 };
    let block = MoeBlock::load(&weights, 64, &spec).unwrap();
    let AnyEngine::Device(engine) = AnyEngine::of(&weights) else { panic!("the engine of a device") };
    let input = |seed| {
        let values = TensorData::new(testkit::noise(rows * 64, seed), [rows, 64]);
        engine.rows(&[&Tensor::from_data(values, &device)])
    };
    // A norm is left to what reads its rows, which here are packed matrices.
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let stored = Weights::new(&checkpoint, &place, Dtype::F32);
    let norm = RmsNorm::load(&stored.at("thinker.model.norm"), 64, 1e-6).unwrap();
    let (residual, mut h) = (input(1), engine.rms_norm(&input(2), &norm));
    let (y, _) = block.add_to(&engine, residual, &mut h, &[rows]);
    engine.values(y)
}

#[test]
fn blocks_of_packed_experts_agree() {
    for bits in [4, 8] {
        let scheme = Scheme { bits, group: Some(32), symmetric: true };
        // With one row and a few, pair by pair; with many, sorted by expert.
        for rows in [1, 5, 30] {
            let expected = outputs(Device::flex(), &scheme, rows);
            let found = outputs(Device::wgpu(DeviceKind::DefaultDevice), &scheme, rows);
            let (_, worst) = testkit::distance(&expected, &found);
            assert!(worst < 32.0 * f64::from(f32::EPSILON), "{bits} bits, {rows} rows: {worst}");
        }
    }
}
