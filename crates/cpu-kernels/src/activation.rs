//! Activation functions, element by element over slices.

use pulp::Arch;
use rayon::prelude::*;

use crate::simd::{Processor, Vectorized};

/// Elements that one task takes at a time.
const PIECE: usize = 1 << 14;

/// Applies exact GELU to every value: `x * (1 + erf(x / √2)) / 2`, with an error below 1e-6.
pub fn gelu(values: &mut [f32]) {
    gelu_on(Processor::best().arch, values);
}

pub(crate) fn gelu_on(arch: Arch, values: &mut [f32]) {
    each(arch, values, exact::<false>);
}

/// Applies GELU's tanh approximation to every value: `x * (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
pub fn gelu_tanh(values: &mut [f32]) {
    gelu_tanh_on(Processor::best().arch, values);
}

pub(crate) fn gelu_tanh_on(arch: Arch, values: &mut [f32]) {
    each(arch, values, by_tanh::<false>);
}

/// Applies ELU to every value: `x` where it is positive, `e^x - 1` elsewhere.
pub fn elu(values: &mut [f32]) {
    elu_on(Processor::best().arch, values);
}

fn elu_on(arch: Arch, values: &mut [f32]) {
    each(
        arch,
        values,
        #[inline(always)]
        |x| if x > 0.0 { x } else { exp::<false>(x) - 1.0 },
    );
}

/// Snake activation with a frequency and an amplitude per channel: `x + sin²(x * frequency) * amplitude`.
#[derive(Debug, Clone, Copy)]
pub struct Snake<'a> {
    /// `[channels]`.
    pub frequency: &'a [f32],
    /// `[channels]`.
    pub amplitude: &'a [f32],
}

impl Snake<'_> {
    /// Activates all values `[channels, time]`.
    ///
    /// # Panics
    /// If the values are not whole channels, or there are not as many amplitudes as frequencies.
    pub fn apply(&self, values: &mut [f32]) {
        self.apply_on(Processor::best().arch, values);
    }

    fn apply_on(&self, arch: Arch, values: &mut [f32]) {
        let channels = self.channels();
        assert!(values.len().is_multiple_of(channels.max(1)), "values [channels, time]");
        assert!(channels > 0 || values.is_empty(), "values of no channel");
        let time = values.len() / channels.max(1);
        let channels = values.par_chunks_mut(time.max(1)).enumerate();
        channels.for_each(|(channel, values)| self.channel(arch, channel, values));
    }

    /// Number of channels.
    ///
    /// # Panics
    /// If there are not as many amplitudes as frequencies.
    pub(crate) fn channels(&self) -> usize {
        assert_eq!(self.frequency.len(), self.amplitude.len(), "frequency, amplitude [channels]");
        self.frequency.len()
    }

    /// Activates the values of one channel.
    pub(crate) fn channel(&self, arch: Arch, channel: usize, values: &mut [f32]) {
        let (frequency, amplitude) = (self.frequency[channel], self.amplitude[channel]);
        arch.dispatch(Vectorized(
            #[inline(always)]
            || {
                values.iter_mut().for_each(|x| *x += sine_squared(*x * frequency) * amplitude);
            },
        ));
    }

    /// Turns the gradient of one channel's outputs into that of its inputs `x`; returns those of the frequency and the amplitude.
    pub(crate) fn channel_backward(&self, arch: Arch, channel: usize, x: &[f32], gradient: &mut [f32]) -> [f32; 2] {
        let (frequency, amplitude) = (self.frequency[channel], self.amplitude[channel]);
        arch.dispatch(Vectorized(
            #[inline(always)]
            || snake_backward([frequency, amplitude], x, gradient),
        ))
    }
}

/// Sums are split over this many, so that compilers vectorise them.
const LANES: usize = 16;

#[inline(always)]
fn snake_backward([frequency, amplitude]: [f32; 2], x: &[f32], gradient: &mut [f32]) -> [f32; 2] {
    let mut sums = [[0.0; LANES]; 2];
    let mut step = |x: f32, gradient: &mut f32, lane: usize| {
        let [sine, cosine] = half_turn(x * frequency);
        let (square, slope) = (sine * sine, 2.0 * sine * cosine);
        sums[0][lane] += *gradient * x * slope;
        sums[1][lane] += *gradient * square;
        *gradient *= 1.0 + amplitude * frequency * slope;
    };
    let ((chunks, rest), (gradients, others)) = (x.as_chunks::<LANES>(), gradient.as_chunks_mut::<LANES>());
    for (x, gradient) in chunks.iter().zip(gradients) {
        for lane in 0..LANES {
            step(x[lane], &mut gradient[lane], lane);
        }
    }
    rest.iter().zip(others).for_each(|(x, gradient)| step(*x, gradient, 0));
    let [of_frequency, of_amplitude] = sums.map(|sums| sums.iter().sum::<f32>());
    [amplitude * of_frequency, of_amplitude]
}

/// `sin²(x)` with an error below 1e-6 for arguments up to some thousands.
#[inline(always)]
fn sine_squared(x: f32) -> f32 {
    let (sine, _) = sine_of_half_turn(x);
    sine * sine
}

/// Sine and cosine of `x` reduced modulo π; both may have the opposite sign, which cancels in their product and squares.
#[inline(always)]
fn half_turn(x: f32) -> [f32; 2] {
    let (sine, square) = sine_of_half_turn(x);
    let series = [1.0 / 479_001_600.0, -1.0 / 3_628_800.0, 1.0 / 40_320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0];
    [sine, series.into_iter().fold(0.0, |sum: f32, factor| sum * square + factor)]
}

/// Sine of `x` reduced modulo π, and the square of that argument.
#[inline(always)]
fn sine_of_half_turn(x: f32) -> (f32, f32) {
    // Adding this rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    // The square repeats after π; multiples of it are subtracted in three parts, for accuracy.
    let turns = (x * std::f32::consts::FRAC_1_PI + ROUND) - ROUND;
    let x = ((x - turns * 3.140_625) - turns * 9.670_257e-4) - turns * 6.277_114e-7;
    let square = x * x;
    let series = [-2.505_210_8e-8, 2.755_731_9e-6, -1.984_127e-4, 8.333_334e-3, -0.166_666_67, 1.0];
    (x * series.into_iter().fold(0.0, |sum: f32, factor| sum * square + factor), square)
}

fn each(arch: Arch, values: &mut [f32], f: impl Fn(f32) -> f32 + Copy + Sync) {
    values.par_chunks_mut(PIECE).for_each(|piece| {
        arch.dispatch(Vectorized(
            #[inline(always)]
            || piece.iter_mut().for_each(|value| *value = f(*value)),
        ));
    });
}

const CUBIC: f32 = 0.044_715;
/// `2 √(2/π)`.
const TWICE: f32 = 1.595_769;

/// `a * b + c`; with `FUSED` as one operation, which is a slow call on processors without it.
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// A polynomial, its highest power first (Horner's scheme).
#[inline(always)]
fn polynomial<const FUSED: bool, const N: usize>(factors: [f32; N], x: f32) -> f32 {
    factors[1..].iter().fold(factors[0], |sum, factor| multiply_add::<FUSED>(sum, x, *factor))
}

#[inline(always)]
pub(crate) fn by_tanh<const FUSED: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FUSED>(-TWICE * x * multiply_add::<FUSED>(CUBIC * x, x, 1.0)))
}

/// Exact GELU; see [`normal`].
#[inline(always)]
pub(crate) fn exact<const FUSED: bool>(x: f32) -> f32 {
    let (erf, _) = normal::<FUSED>(x);
    multiply_add::<FUSED>(0.5 * x.abs(), erf, 0.5 * x)
}

/// `erf(|x| / √2)`, by Abramowitz and Stegun's 7.1.26, whose error is below 1.5e-7, and `e^(-x² / 2)`.
#[inline(always)]
pub(crate) fn normal<const FUSED: bool>(x: f32) -> (f32, f32) {
    let y = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / multiply_add::<FUSED>(0.327_591_1, y, 1.0);
    let sum = polynomial::<FUSED, 5>([1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6], t) * t;
    let bell = exp::<FUSED>(-y * y);
    (multiply_add::<FUSED>(-sum, bell, 1.0), bell)
}

/// `e^x` to a few units in the last place, in operations that compilers vectorise.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Adding this rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let rounded = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let whole = rounded - ROUND;
    let rest = multiply_add::<FUSED>(whole, 2.121_944_4e-4, multiply_add::<FUSED>(whole, -0.693_359_4, x));
    let factors = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    polynomial::<FUSED, 8>(factors, rest) * f32::from_bits(exponent)
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp::<false>(-x))
}

/// `sigmoid(x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp::<false>(-x))
}

/// `gate = silu(gate) * up`.
///
/// # Panics
/// If the lengths differ.
pub fn silu_multiply(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate, up");
    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = silu(*gate) * up);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snake_is_right_for_small_and_large_arguments() {
        let step = if cfg!(miri) { 997 } else { 1 };
        let values: Vec<f32> = (-40_000..40_000).step_by(step).map(|i| i as f32 / 37.0).collect();
        for processor in Processor::all() {
            let mut activated = values.clone();
            Snake { frequency: &[1.5], amplitude: &[0.7] }.apply_on(processor.arch, &mut activated);
            for (x, y) in values.iter().zip(&activated) {
                let expected = f64::from(*x) + (f64::from(*x * 1.5)).sin().powi(2) * 0.7;
                let error = (expected - f64::from(*y)).abs();
                assert!(error < 2e-6 + 1e-7 * f64::from(x.abs()), "{processor:?}: {x}: {y} instead of {expected}");
            }
        }
    }

    #[test]
    fn gelus_of_known_values() {
        let (x, y) = ([-20.0, -1.0, 0.0, 1.0, 20.0], [0.0, -0.158_655, 0.0, 0.841_345, 20.0]);
        for processor in Processor::all() {
            let (mut exact, mut by_tanh) = (x, x);
            gelu_on(processor.arch, &mut exact);
            gelu_tanh_on(processor.arch, &mut by_tanh);
            assert!(exact.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-5), "{processor:?}: {exact:?}");
            assert!(by_tanh.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-3), "{processor:?}: {by_tanh:?}");
        }
    }

    #[test]
    fn elu_is_right_on_both_sides_of_zero() {
        let values: Vec<f32> = (-4000..400).map(|i| i as f32 / 37.0).chain([-1e-7, f32::MIN, f32::MAX]).collect();
        for processor in Processor::all() {
            let mut activated = values.clone();
            elu_on(processor.arch, &mut activated);
            for (x, y) in values.iter().zip(&activated) {
                let expected = if *x > 0.0 { f64::from(*x) } else { f64::from(*x).exp_m1() };
                assert!((expected - f64::from(*y)).abs() < 2e-7, "{processor:?}: {x}: {y} instead of {expected}");
            }
        }
        let mut unknown = [f32::NAN];
        elu(&mut unknown);
        assert!(unknown[0].is_nan());
    }

    #[test]
    fn silu_of_known_values() {
        let mut gate = [0.0, 1.0, -20.0];
        silu_multiply(&mut gate, &[3.0, 2.0, 1.0]);
        assert!((gate[1] - 2.0 * 0.731_058_6).abs() < 1e-5 && gate[0] == 0.0 && gate[2].abs() < 1e-6);
        assert_eq!(sigmoid(0.0), 0.5);
    }
}
