//! Losses of the stages, each a formula over logits or log-probabilities.

mod cross_entropy;
mod distill;
mod dpo;
mod gspo;
mod load_balance;
mod mel;
mod spectrum;
mod stft;
mod vectors;
mod wave;

pub use cross_entropy::{cross_entropy, log_probs, smoothed_cross_entropy};
pub use distill::{DistillLoss, distill, distill_top_k, forward_kl_top_k, top_k};
pub use dpo::{DpoOptions, Preference, dpo, ipo};
pub use gspo::{ClipRange, advantages, gspo, gspo_token, k3_divergence, sequence_ratios, token_level_grpo};
pub use load_balance::{RouterTap, load_balance};
pub(crate) use mel::{MEL_BINS, MEL_WINDOW, mel_filters};
pub(crate) use stft::Stft;
pub(crate) use vectors::{constants, indices};
pub(crate) use wave::FLOOR;
pub use wave::{WaveLoss, WaveLossParts, WaveWeights};
