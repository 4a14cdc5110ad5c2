use std::sync::Arc;

use nn::{HostFunction, Values};
use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

/// Added to the squares of magnitudes, whose roots have no slope at zero.
pub(super) const SQUARE_FLOOR: f32 = 1e-8;

/// Magnitudes of a short-time Fourier transform with its gradient, in host memory: `[B, T]` → `[B * frames, bins]`.
///
/// Frames are a quarter of the window apart, centred, and padded by reflection, as in [`super::WaveLoss`].
#[derive(Clone)]
pub(super) struct Magnitudes {
    hann: Arc<[f32]>,
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
}

impl std::fmt::Debug for Magnitudes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Magnitudes").field("window", &self.window()).finish_non_exhaustive()
    }
}

/// The sample at a place of a padded wave of `length` samples, `half` before its first one.
pub(super) fn reflected(at: usize, half: usize, length: usize) -> usize {
    match at.checked_sub(half) {
        None => half - at,
        Some(inside) if inside < length => inside,
        Some(beyond) => 2 * (length - 1) - beyond,
    }
}

/// Value `n` of a periodic Hann window.
pub(super) fn hann(n: usize, window: usize) -> f64 {
    0.5 - 0.5 * (2.0 * std::f64::consts::PI * n as f64 / window as f64).cos()
}

impl Magnitudes {
    pub(super) fn new(window: usize) -> Self {
        let mut planner = RealFftPlanner::new();
        Self {
            hann: (0..window).map(|n| hann(n, window) as f32).collect(),
            forward: planner.plan_fft_forward(window),
            inverse: planner.plan_fft_inverse(window),
        }
    }

    fn window(&self) -> usize {
        self.hann.len()
    }

    fn bins(&self) -> usize {
        self.window() / 2 + 1
    }

    /// Transforms each frame and hands it to `f`: the wave, the frame, and its spectrum.
    fn frames(&self, x: Values, mut f: impl FnMut(usize, usize, &mut [Complex<f32>])) {
        let ([batch, length], half) = ([x.shape[0], x.shape[1]], self.window() / 2);
        let (mut frame, mut spectrum) = (self.forward.make_input_vec(), self.forward.make_output_vec());
        let mut scratch = self.forward.make_scratch_vec();
        for wave in 0..batch {
            let samples = &x.values[wave * length..][..length];
            for index in 0..self.count(length) {
                let start = index * self.window() / 4;
                let places = frame.iter_mut().zip(&self.hann[..]).enumerate();
                places.for_each(|(n, (y, hann))| *y = samples[reflected(start + n, half, length)] * hann);
                let done = self.forward.process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
                done.expect("buffers of the plan's sizes");
                f(wave, index, &mut spectrum);
            }
        }
    }

    /// Frames of a wave.
    fn count(&self, length: usize) -> usize {
        length / (self.window() / 4) + 1
    }
}

fn magnitude(value: &Complex<f32>) -> f32 {
    (value.norm_sqr() + SQUARE_FLOOR).sqrt()
}

impl HostFunction<1> for Magnitudes {
    fn forward(&self, [x]: [Values; 1]) -> (Vec<usize>, Vec<f32>) {
        let rows = x.shape[0] * self.count(x.shape[1]);
        let mut y = Vec::with_capacity(rows * self.bins());
        self.frames(x, |_, _, spectrum| y.extend(spectrum.iter().map(magnitude)));
        (vec![rows, self.bins()], y)
    }

    fn backward(&self, [x]: [Values; 1], _: Values, gradient: &[f32]) -> [Vec<f32>; 1] {
        let (length, half, bins) = (x.shape[1], self.window() / 2, self.bins());
        let (mut of_x, mut frame) = (vec![0.0; x.values.len()], self.inverse.make_output_vec());
        let (mut scratch, mut row) = (self.inverse.make_scratch_vec(), gradient.chunks_exact(bins));
        self.frames(x, |wave, index, spectrum| {
            let Some(row) = row.next() else { return };
            for (bin, (value, gradient)) in spectrum.iter_mut().zip(row).enumerate() {
                // Each bin also stands for its mirror image, so it gets half; the first and last bins have none and are real.
                let alone = bin == 0 || bin + 1 == bins;
                *value *= gradient / magnitude(value) * if alone { 1.0 } else { 0.5 };
                value.im = if alone { 0.0 } else { value.im };
            }
            let done = self.inverse.process_with_scratch(spectrum, &mut frame, &mut scratch);
            done.expect("buffers of the plan's sizes");
            let (start, samples) = (index * self.window() / 4, &mut of_x[wave * length..][..length]);
            for (n, (value, hann)) in frame.iter().zip(&self.hann[..]).enumerate() {
                samples[reflected(start + n, half, length)] += value * hann;
            }
        });
        [of_x]
    }
}
