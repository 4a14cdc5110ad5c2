//! Plain formulas that more than one operation is made of.

use checkpoint::Weights;
use omni_core::Dtype;
use qwen3_omni_nn::SKINNY_MAX_ROWS;

use crate::approx::{Approx, quantization_step};

/// The form in which a product reads its operands.
#[derive(Debug, Clone, Copy)]
pub struct Operands {
    dtype: Dtype,
    /// Whether rows are quantised, too.
    integers: bool,
}

impl Operands {
    /// Operands of a layer on `rows` rows. In host memory, packed weights meet integers, or numbers in bf16 if the rows are many.
    pub fn of(weights: &Weights, packed: bool, rows: usize) -> Self {
        let integers = packed && weights.place().is_host();
        let bf16 = integers && rows > SKINNY_MAX_ROWS;
        Self { dtype: if bf16 { Dtype::Bf16 } else { weights.compute_dtype() }, integers }
    }
}

impl From<Dtype> for Operands {
    fn from(dtype: Dtype) -> Self {
        Self { dtype, integers: false }
    }
}

/// The terms of one number of a product: of a row, and of a row of the weight `[out, in]`.
pub fn terms<'a>(
    x: &'a [Approx],
    weight: &'a [f32],
    operands: impl Into<Operands>,
) -> impl Iterator<Item = Approx> + 'a {
    let Operands { dtype, integers } = operands.into();
    let step = if integers { quantization_step(x) } else { 0.0 };
    x.iter().zip(weight).map(move |(x, w)| x.rounded_to(step).operand(dtype) * Approx::from(*w).operand(dtype))
}

/// `W x` of a row, with the weight `[out, in]`.
pub fn product(x: &[Approx], weight: &[f32], operands: impl Into<Operands> + Copy) -> Vec<Approx> {
    weight.chunks_exact(x.len()).map(|weight| Approx::sum(terms(x, weight, operands))).collect()
}

pub fn sigmoid(x: Approx) -> Approx {
    x.activated(|x| 1.0 / (1.0 + (-x).exp()), 0.25)
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

/// A head with each pair of numbers, one of either half, turned by its angle.
pub fn rotated(head: &[Approx], cos: &[f32], sin: &[f32]) -> Vec<Approx> {
    let (first, second) = head.split_at(head.len() / 2);
    let turn = |a: &[Approx], b: &[Approx], sign: f32| -> Vec<Approx> {
        let angles = cos.iter().zip(sin).map(|(cos, sin)| (Approx::from(*cos), Approx::from(sign * sin)));
        a.iter().zip(b).zip(angles).map(|((a, b), (cos, sin))| *a * cos + *b * sin).collect()
    };
    [turn(first, second, -1.0), turn(second, first, 1.0)].concat()
}

/// `softmax(q kᵀ / √Dh) v` of one query over the keys it sees.
pub fn attention(query: &[Approx], keys: &[Vec<Approx>], values: &[Vec<Approx>], dtype: Dtype) -> Vec<Approx> {
    let root = Approx::from(query.len() as f32).sqrt();
    let score = |key: &Vec<Approx>| {
        let terms = query.iter().zip(key).map(|(q, k)| q.operand(dtype) * k.operand(dtype));
        Approx::sum(terms) / root
    };
    let weights = softmax(&keys.iter().map(score).collect::<Vec<_>>());
    let weighted = |at: usize| {
        let terms = weights.iter().zip(values).map(|(weight, value)| weight.operand(dtype) * value[at].operand(dtype));
        Approx::sum(terms)
    };
    (0..query.len()).map(weighted).collect()
}

pub fn softmax(scores: &[Approx]) -> Vec<Approx> {
    // As everywhere, the greatest score is subtracted first.
    let greatest = scores.iter().copied().reduce(Approx::max).expect("a score");
    let powers: Vec<Approx> = scores.iter().map(|score| (*score - greatest).exp()).collect();
    let total = Approx::sum(powers.iter().copied());
    powers.into_iter().map(|power| power / total).collect()
}
