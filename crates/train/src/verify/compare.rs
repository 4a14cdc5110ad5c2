use std::collections::BTreeMap;

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
