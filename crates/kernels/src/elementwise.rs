//! Functions of single numbers, over slices.

use rayon::prelude::*;

/// Numbers one core takes at a time.
const PIECE: usize = 1 << 14;

/// Exact GELU of every value: `x * (1 + erf(x / √2)) / 2`, with an error below 1e-6.
pub fn gelu(values: &mut [f32]) {
    each(values, exact);
}

/// GELU by its tanh approximation of every value: `x * (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
pub fn gelu_tanh(values: &mut [f32]) {
    each(values, by_tanh);
}

fn each(values: &mut [f32], f: impl Fn(f32) -> f32 + Copy + Sync) {
    let arch = pulp::Arch::new();
    values.par_chunks_mut(PIECE).for_each(|piece| {
        arch.dispatch(|| piece.iter_mut().for_each(|value| *value = f(*value)));
    });
}

const CUBIC: f32 = 0.044_715;
/// `2 √(2/π)`.
const TWICE: f32 = 1.595_769;

#[inline(always)]
fn by_tanh(x: f32) -> f32 {
    x / (1.0 + exp(-TWICE * x * (1.0 + CUBIC * x * x)))
}

/// With Abramowitz and Stegun's 7.1.26 for the error function, whose error is below 1.5e-7.
#[inline(always)]
fn exact(x: f32) -> f32 {
    let y = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * y);
    let series = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let sum = series.into_iter().fold(0.0, |sum: f32, factor| sum * t + factor) * t;
    let erf = 1.0 - sum * exp(-y * y);
    0.5 * x + 0.5 * x.abs() * erf
}

/// `e^x` to a few units in the last place, in operations that compilers turn into vector code.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding this rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let whole = rounded - ROUND;
    let rest = (x - whole * 0.693_359_4) + whole * 2.121_944_4e-4;
    let series = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let power = series.into_iter().fold(0.0, |sum: f32, factor| sum * rest + factor);
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    power * f32::from_bits(exponent)
}
