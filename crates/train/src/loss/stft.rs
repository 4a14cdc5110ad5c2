use std::sync::OnceLock;

use burn::tensor::{Device, Tensor, TensorData};
use nn::{HostInput, host_function};

use super::spectrum::{Magnitudes, SQUARE_FLOOR, hann, reflected};
use super::vectors::indices;

/// A short-time Fourier transform: fast in host memory, one matrix product elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Stft {
    window: usize,
    fast: Magnitudes,
    /// `[window, 2 * bins]`: windowed cosines, then windowed sines; made when first needed.
    basis: OnceLock<Tensor<2>>,
    device: Device,
}

impl Stft {
    /// Makes the transform with a periodic Hann window.
    pub(crate) fn new(window: usize, device: &Device) -> Self {
        Self { window, fast: Magnitudes::new(window), basis: OnceLock::new(), device: device.clone() }
    }

    fn basis(&self) -> Tensor<2> {
        let make = || {
            let (window, bins) = (self.window, self.window / 2 + 1);
            let turn = 2.0 * std::f64::consts::PI / window as f64;
            let row = |n: usize| {
                let hann = hann(n, window);
                // The phase repeats every `window` steps; large arguments would cost precision.
                let angle = move |k: usize| turn * ((n * k) % window) as f64;
                let cosines = (0..bins).map(move |k| (hann * angle(k).cos()) as f32);
                cosines.chain((0..bins).map(move |k| (hann * angle(k).sin()) as f32))
            };
            let basis: Vec<f32> = (0..window).flat_map(row).collect();
            Tensor::from_data(TensorData::new(basis, [window, 2 * bins]), &self.device)
        };
        self.basis.get_or_init(make).clone()
    }

    /// Magnitudes of centred frames, padded by reflection: `[B, T]` → `[B * frames, bins]`.
    pub(crate) fn magnitudes(&self, x: &Tensor<2>) -> Tensor<2> {
        let ([_, length], half) = (x.dims(), self.window / 2);
        assert!(length > half, "waves of {length} samples, expected more than {half}");
        host_function(&self.fast, [HostInput::new(x.clone())]).unwrap_or_else(|| self.by_product(x))
    }

    /// The same as one matrix product.
    fn by_product(&self, x: &Tensor<2>) -> Tensor<2> {
        let ([batch, length], window) = (x.dims(), self.window);
        let (half, hop) = (window / 2, window / 4);
        let frames = length / hop + 1;
        let places = (0..frames).flat_map(|frame| (0..window).map(move |n| frame * hop + n));
        let places = places.map(|at| reflected(at, half, length));
        let frames = x.clone().select(1, indices(places, &x.device())).reshape([batch * frames, window]);
        self.of_frames(frames)
    }

    /// Magnitudes of frames that are cut already: `[frames, window]` → `[frames, bins]`.
    pub(crate) fn of_frames(&self, frames: Tensor<2>) -> Tensor<2> {
        let bins = self.window / 2 + 1;
        let spectrum = frames.matmul(self.basis()).square(); // [frames, 2 * bins]
        let [re, im] = [0, bins].map(|start| spectrum.clone().narrow(1, start, bins));
        (re + im + SQUARE_FLOOR).sqrt()
    }

    /// Samples of a frame.
    pub(crate) fn window(&self) -> usize {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_transform_and_its_gradient_are_those_of_the_product() {
        let device = Device::flex().autodiff();
        let noise = |seed: u32, count: usize| -> Vec<f32> {
            let next = |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
            (0..count as u32).map(next).collect()
        };
        for window in [8, 256] {
            let transform = Stft::new(window, &device);
            let x = || Tensor::<2>::from_data(TensorData::new(noise(1, 2 * 777), [2, 777]), &device).require_grad();
            let run = |f: &dyn Fn(&Tensor<2>) -> Tensor<2>| {
                let x = x();
                let y = f(&x);
                let weights = noise(2, y.dims().iter().product());
                let weights = Tensor::<2>::from_data(TensorData::new(weights, y.dims()), &device);
                let gradients = (y.clone() * weights).sum().backward();
                [nn::to_f32_vec(&y), nn::to_f32_vec(&x.grad(&gradients).unwrap())]
            };
            let (fast, plain) = (run(&|x| transform.magnitudes(x)), run(&|x| transform.by_product(x)));
            // The slope of a magnitude near zero depends on its last bits.
            for ((fast, plain), limit) in fast.iter().zip(&plain).zip([1e-5, 5e-4]) {
                assert_eq!(fast.len(), plain.len());
                let worst = fast.iter().zip(plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                let largest = plain.iter().map(|x| x.abs()).fold(0.0, f32::max);
                assert!(worst < limit * largest, "window {window}: {worst} of {largest}");
            }
        }
    }

    #[test]
    fn a_tone_stands_in_its_bin() {
        let device = Device::flex();
        let tone: Vec<f32> = (0..4096).map(|i| (2.0 * std::f32::consts::PI * 32.0 * i as f32 / 512.0).sin()).collect();
        let tone = Tensor::<2>::from_data(TensorData::new(tone, [1, 4096]), &device);
        let magnitudes = nn::to_f32_vec(&Stft::new(512, &device).magnitudes(&tone));
        let frame = &magnitudes[4 * 257..5 * 257];
        let loudest = (0..257).max_by(|a, b| frame[*a].total_cmp(&frame[*b])).unwrap();
        // A Hann window of 512 gives a tone a height of a quarter of it.
        assert!(loudest == 32 && (frame[32] - 128.0).abs() < 0.1, "bin {loudest}: {}", frame[loudest]);
    }
}
