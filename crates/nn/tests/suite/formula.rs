//! Plain formulas that more than one operation is made of.

use omni_core::Dtype;

use crate::approx::Approx;

/// The terms of one number of a product: of a row, and of a row of the weight `[out, in]`.
pub fn terms<'a>(x: &'a [Approx], weight: &'a [f32], dtype: Dtype) -> impl Iterator<Item = Approx> + 'a {
    x.iter().zip(weight).map(move |(x, w)| x.operand(dtype) * Approx::from(*w).operand(dtype))
}

pub fn silu(x: Approx) -> Approx {
    x.activated(|x| x / (1.0 + (-x).exp()), 1.1)
}

/// `x / √(mean(x²) + eps) · weight`.
pub fn rms_norm(x: &[Approx], weight: &[f32], eps: f32) -> Vec<Approx> {
    let root = (mean(x.iter().map(|x| *x * *x)) + Approx::from(eps)).sqrt();
    x.iter().zip(weight).map(|(x, weight)| *x / root * Approx::from(*weight)).collect()
}

pub fn mean(terms: impl ExactSizeIterator<Item = Approx>) -> Approx {
    let count = Approx::from(terms.len() as f32);
    Approx::sum(terms) / count
}
