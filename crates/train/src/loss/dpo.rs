use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;
use serde::{Deserialize, Serialize};

use super::vectors::constants;

/// Settings of direct preference optimisation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpoOptions {
    /// How strongly the reference holds.
    pub beta: f64,
    /// Probability that a preference was noted the wrong way round.
    pub label_smoothing: f64,
}

impl Default for DpoOptions {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0 }
    }
}

/// Log-probabilities of the chosen and the rejected answer of each pair, under the policy.
#[derive(Debug, Clone)]
pub struct Preference {
    /// `[pairs]`.
    pub chosen: Tensor<1>,
    /// `[pairs]`.
    pub rejected: Tensor<1>,
}

impl Preference {
    /// Splits `[chosen, rejected, chosen, rejected, …]`.
    ///
    /// # Panics
    /// If the number is odd.
    pub fn alternating(values: &Tensor<1>) -> Self {
        let pairs = values.clone().reshape([-1, 2]);
        let side = |at| pairs.clone().narrow(1, at, 1).flatten(0, 1);
        Self { chosen: side(0), rejected: side(1) }
    }

    /// By how much more than the reference the policy prefers the chosen answers:
    /// `(log π(y_w) − log ref(y_w)) − (log π(y_l) − log ref(y_l))`; the reference is given as `[chosen, rejected, …]`.
    ///
    /// # Shapes
    /// → `[pairs]`.
    pub fn margin(&self, reference: &[f64]) -> Tensor<1> {
        // The difference of the reference is taken first: both sums are large, and f32 would lose their difference.
        let of_reference = reference.chunks_exact(2).map(|pair| (pair[0] - pair[1]) as f32).collect();
        let reference = constants(of_reference, &self.chosen.device());
        self.chosen.clone() - self.rejected.clone() - reference
    }
}

/// Direct preference optimisation (DPO, equation 7): `−log σ(β Δ)`, mean over pairs, computed without overflow.
///
/// # Shapes
/// `margin` `[pairs]` → `[1]`.
pub fn dpo(margin: Tensor<1>, options: DpoOptions) -> Tensor<1> {
    let DpoOptions { beta, label_smoothing } = options;
    let z = margin * beta;
    let right = log_sigmoid(z.clone());
    let loss = match label_smoothing {
        0.0 => right,
        smoothing => right * (1.0 - smoothing) + log_sigmoid(z.neg()) * smoothing,
    };
    loss.mean().neg()
}

/// Identity preference optimisation: `(Δ / rows − 1 / (2 β))²`, mean over pairs; `rows` are the labelled rows of the chosen answers.
///
/// # Shapes
/// `margin` and `rows` `[pairs]` → `[1]`.
pub fn ipo(margin: Tensor<1>, rows: &[usize], beta: f64) -> Tensor<1> {
    let rows = constants(rows.iter().map(|rows| *rows as f32).collect(), &margin.device());
    (margin / rows - 1.0 / (2.0 * beta)).square().mean()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn margins_of_any_size_have_finite_losses() {
        let at = |margin: f32| {
            let margin = Tensor::<1>::from_floats([margin], &Device::flex());
            dpo(margin, DpoOptions::default()).into_scalar::<f32>()
        };
        assert!((at(0.0) - std::f32::consts::LN_2).abs() < 1e-6);
        assert!((at(-2e4) - 2e3).abs() < 1e-2, "{}", at(-2e4));
        assert!(at(2e4).abs() < 1e-6, "{}", at(2e4));
    }
}
