//! Numbers that carry how far rounding may move them: a plain formula over them gives its own tolerance.
//!
//! Running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, 3.3): every operation passes on the errors of
//! what it takes and adds its own rounding in f32. The bound depends on the formula and the number type alone, never on what an
//! engine gives.

use std::ops::{Add, Div, Mul, Neg, Sub};

use omni_core::Dtype;

/// Largest relative error of one rounding to f32, whose significand has 24 bits.
const F32: f64 = 1.0 / (1 << 24) as f64;
/// Largest relative error of one rounding to bf16, whose significand has 8 bits.
const BF16: f64 = 1.0 / (1 << 8) as f64;
/// Largest error of exponentials and of the activations made of them, as the CPU kernels document it.
const ELEMENTARY: f64 = 1e-6;

/// A number of the formula, and a bound of the error of any computation of it.
#[derive(Debug, Clone, Copy)]
pub struct Approx {
    value: f64,
    error: f64,
}

impl From<f32> for Approx {
    fn from(value: f32) -> Self {
        Self { value: value.into(), error: 0.0 }
    }
}

impl Approx {
    /// A result in f32: `value`, computed with `error` and then rounded.
    fn computed(value: f64, error: f64) -> Self {
        Self { value, error: error + F32 * (value.abs() + error) }
    }

    /// The number as a GEMM or attention reads it: in bf16 it is rounded once. The bound allows for kernels that keep f32, too.
    pub fn operand(self, dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => self,
            _ => Self { error: self.error + BF16 * (self.value.abs() + self.error), ..self },
        }
    }

    /// The number as an integer times `step`; a step of 0 keeps it.
    pub fn rounded_to(self, step: f64) -> Self {
        Self { error: self.error + 0.5 * step * (1.0 + 1e-3), ..self }
    }

    /// The sum in any order: each of the additions rounds a number that is no greater than the sum of all magnitudes.
    pub fn sum(terms: impl IntoIterator<Item = Self>) -> Self {
        let (mut sum, mut magnitude, mut count) = (Self::from(0.0), 0.0, 0.0);
        for Self { value, error } in terms {
            sum = Self { value: sum.value + value, error: sum.error + error };
            magnitude += value.abs() + error;
            count += 1.0;
        }
        Self { error: sum.error + count * F32 * magnitude, ..sum }
    }

    pub fn exp(self) -> Self {
        let value = self.value.exp();
        Self::computed(value, value * (self.error.exp_m1() + ELEMENTARY * self.error.exp()))
    }

    /// The root of a number that is not negative.
    pub fn sqrt(self) -> Self {
        let (value, least) = (self.value.sqrt(), (self.value - self.error).max(0.0).sqrt());
        Self::computed(value, self.error / (value + least))
    }

    /// An activation function whose slope is nowhere steeper than `steepest`.
    pub fn activated(self, function: impl Fn(f64) -> f64, steepest: f64) -> Self {
        Self::computed(function(self.value), steepest * self.error + ELEMENTARY * self.value.abs().max(1.0))
    }

    /// The greater of two numbers.
    pub fn max(self, other: Self) -> Self {
        if other.value > self.value { other } else { self }
    }
}

impl Neg for Approx {
    type Output = Self;

    fn neg(self) -> Self {
        Self { value: -self.value, ..self }
    }
}

impl Add for Approx {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::computed(self.value + other.value, self.error + other.error)
    }
}

impl Sub for Approx {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Approx {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let error = self.error * (other.value.abs() + other.error) + self.value.abs() * other.error;
        Self::computed(self.value * other.value, error)
    }
}

impl Div for Approx {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        let (value, least) = (self.value / other.value, other.value.abs() - other.error);
        assert!(least > 0.0, "a divisor that may be zero: {other:?}");
        Self::computed(value, (self.error + value.abs() * other.error) / least)
    }
}

/// The coarsest step to which kernels quantise a row beside packed weights: 14 bits and a sign for its greatest number.
pub fn quantization_step(row: &[Approx]) -> f64 {
    const GREATEST: f64 = (127 << 7) as f64;
    row.iter().fold(0.0, |most: f64, x| most.max(x.value.abs() + x.error)) / GREATEST
}

/// Values as numbers of a formula.
pub fn exact(values: &[f32]) -> Vec<Approx> {
    values.iter().copied().map(Approx::from).collect()
}

/// Asserts that each number found is one that the formula allows.
pub fn assert_near(found: &[f32], expected: &[Approx], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: as many numbers as the formula has");
    for (at, (found, Approx { value, error })) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - value).abs();
        assert!(off <= *error, "{what}: number {at} is {found} instead of {value}, {off} off where {error} is allowed");
    }
}
