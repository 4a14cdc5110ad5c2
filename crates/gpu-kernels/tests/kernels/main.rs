//! Every kernel computes what its body in plain operations computes on the CPU, for any sizes, and lets gradients through.
//!
//! On the device whose feature is switched on.
#![cfg(all(any(feature = "wgpu", feature = "cuda"), not(feature = "fusion")))]
#![allow(clippy::unwrap_used)]

mod attention;
mod convolutions;
mod draws;
mod elementwise;
mod products;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use testkit::{distance, noise};

/// Differences, as a share of the largest value, that come from the order of sums and from the last bit of a division or exponential.
const ROUNDING: f64 = 32.0 * f32::EPSILON as f64;

fn gpu() -> Device {
    #[cfg(feature = "cuda")]
    return Device::cuda(0);
    #[cfg(not(feature = "cuda"))]
    Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)
}

fn cpu() -> Device {
    Device::flex()
}

fn floats<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let values = noise(shape.iter().product(), seed);
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().try_to_vec_as().unwrap()
}

fn ids<const D: usize>(x: &Tensor<D, Int>) -> Vec<i64> {
    x.to_data().try_to_vec_as().unwrap()
}

/// Computes the same on the GPU by kernels and on the CPU by plain operations, and compares.
fn agree<const D: usize>(kernel: impl Fn(&Device) -> Tensor<D>, plain: impl Fn(&Device) -> Tensor<D>) {
    let (found, expected) = (kernel(&gpu()), plain(&cpu()));
    assert_eq!(found.dims(), expected.dims());
    let (cosine, worst) = distance(&values(&expected), &values(&found));
    assert!(worst < ROUNDING && cosine > 0.999_999, "{worst} away, cosine {cosine}");
}

/// Cosines and sines of random angles, the second half of each row repeating the first.
fn tables(rows: usize, width: usize, seed: u64, device: &Device) -> [Tensor<3>; 2] {
    let angles = noise(rows * width / 2, seed);
    let table = |f: fn(f32) -> f32| {
        let halves = angles.chunks_exact((width / 2).max(1)).flat_map(|half| [half, half].concat());
        Tensor::from_data(TensorData::new(halves.map(f).collect::<Vec<f32>>(), [rows, 1, width]), device)
    };
    [table(f32::cos), table(f32::sin)]
}
