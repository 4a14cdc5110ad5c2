//! Losses of the stages, each a formula over logits or log-probabilities.

mod cross_entropy;
mod distill;
mod dpo;
mod gspo;
mod load_balance;
mod mel;
mod spectrum;
mod stft;
mod wave;

pub use cross_entropy::{cross_entropy, log_probs, smoothed_cross_entropy};
pub use distill::{DistillLoss, distill, distill_top_k, forward_kl_top_k, top_k};
pub use dpo::{DpoOptions, Preference, dpo, ipo};
pub use gspo::{ClipRange, advantages, gspo, gspo_token, k3_divergence, sequence_ratios, token_level_grpo};
pub use load_balance::{RouterTap, load_balance};
pub(crate) use mel::{MEL_BINS, MEL_WINDOW, mel_filters};
pub(crate) use stft::Stft;
pub(crate) use wave::FLOOR;
pub use wave::{WaveLoss, WaveLossParts, WaveWeights};

use burn::tensor::{Device, Int, Tensor, TensorData};

/// A one-dimensional tensor of indices.
pub(crate) fn indices(values: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// A one-dimensional tensor of constants.
pub(crate) fn constants(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
