use std::collections::BTreeMap;

use burn::tensor::Tensor;
use omni_core::Positions;

/// One compared quantity of a case.
#[derive(Debug, Clone)]
pub struct Check {
    /// What was compared.
    pub quantity: String,
    /// Distance from the stored value.
    pub difference: f64,
    /// Largest distance that passes.
    pub limit: f64,
}

impl Check {
    /// Whether the difference is within the limit; NaN is not.
    pub fn passed(&self) -> bool {
        self.difference <= self.limit
    }
}

/// The checks of one case.
#[derive(Debug, Clone, Default)]
pub struct Checks(pub Vec<Check>);

impl Checks {
    pub(super) fn compare(&mut self, quantity: impl Into<String>, difference: f64, limit: f64) {
        self.0.push(Check { quantity: quantity.into(), difference, limit });
    }

    /// Compares a loss or a part of one.
    pub(super) fn value(&mut self, quantity: impl Into<String>, found: f64, expected: f64) {
        self.compare(quantity, (found - expected).abs(), 2e-5 * expected.abs().max(1.0));
    }

    /// Compares two lists by the largest distance, each to a limit.
    pub(super) fn list(&mut self, quantity: &str, found: &[f64], expected: &[f64], limit: f64) {
        let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, worse);
        let difference = if found.len() == expected.len() { largest } else { f64::INFINITY };
        self.compare(quantity, difference, limit);
    }

    /// The check of each group (the text before the first space) that comes closest to its limit or exceeds it most.
    pub fn worst(&self) -> Vec<&Check> {
        let mut worst: BTreeMap<&str, &Check> = BTreeMap::new();
        for check in &self.0 {
            let group = check.quantity.split_once(' ').map_or(&check.quantity[..], |(group, _)| group);
            let part =
                |check: &Check| if check.passed() { check.difference / check.limit.max(1e-300) } else { f64::INFINITY };
            let kept = worst.entry(group).or_insert(check);
            if part(check) > part(kept) {
                *kept = check;
            }
        }
        worst.into_values().collect()
    }
}

/// The larger of two distances, where NaN is larger than any.
pub(super) fn worse(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

/// A projection of a tensor that changes when its elements are permuted, transposed or scaled: the sum of its elements with signs drawn
/// from its name by SplitMix64.
pub(super) fn signed_sum(name: &str, values: &[f32]) -> f64 {
    let state = u64::from(crc32fast::hash(name.as_bytes()));
    let sign = |index: u64| {
        let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15u64.wrapping_mul(index + 1));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        if (z ^ (z >> 31)) & 1 == 0 { 1.0 } else { -1.0 }
    };
    values.iter().zip(0..).map(|(value, index)| f64::from(*value) * sign(index)).sum()
}

/// Euclidean length.
pub(super) fn length(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// The values of a small tensor.
pub(super) fn scalar(tensor: &Tensor<1>) -> Vec<f64> {
    nn::to_f32_vec(tensor).into_iter().map(f64::from).collect()
}

/// The values of several small tensors.
pub(super) fn scalars(tensors: impl IntoIterator<Item = Tensor<1>>) -> Vec<f64> {
    tensors.into_iter().flat_map(|tensor| scalar(&tensor)).collect()
}

/// Standard deviation of all elements, with one less in the denominator.
pub(super) fn deviation(tensor: &Tensor<2>) -> f64 {
    let values = nn::to_f32_vec(tensor);
    let mean = values.iter().copied().map(f64::from).sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// Compares the positions of rows with stored ones `[3, rows, columns]`, padded at the right.
pub(super) fn positions(checks: &mut Checks, found: &[&Positions], stored: &[f64], [rows, columns]: [usize; 2]) {
    let mut largest = if found.len() == rows { 0.0 } else { f64::INFINITY };
    for (row, positions) in found.iter().enumerate() {
        for axis in 0..3 {
            let stored = &stored[(axis * rows + row) * columns..][..columns];
            let own = positions.axis(axis).iter().zip(stored);
            largest = own.map(|(a, b)| (f64::from(*a) - b).abs()).fold(largest, worse);
        }
    }
    checks.compare("positions", largest, 0.0);
}
