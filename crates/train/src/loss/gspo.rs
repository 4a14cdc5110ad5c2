use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::vectors::constants;

/// How far a sequence's probability may move from that of the policy that wrote it before it is left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipRange {
    /// Below a ratio of 1.
    pub low: f64,
    /// Above a ratio of 1.
    pub high: f64,
}

impl Default for ClipRange {
    /// The values of the GSPO paper, section 5.1.
    fn default() -> Self {
        Self { low: 3e-4, high: 4e-4 }
    }
}

/// Advantages of the answers of one group: rewards minus their mean, divided by their standard deviation (with `G − 1`) plus 1e-6.
///
/// All 0 for a single answer or equal rewards.
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let count = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / count;
    let squares: f64 = rewards.iter().map(|reward| (reward - mean).powi(2)).sum();
    if rewards.len() < 2 || squares == 0.0 {
        return vec![0.0; rewards.len()];
    }
    let deviation = (squares / (count - 1.0)).sqrt();
    rewards.iter().map(|reward| (reward - mean) / (deviation + 1e-6)).collect()
}

/// Ratio of each answer's probability under the policy to that under the one that wrote it, normalised by its length:
/// `exp(mean_t(log π(y_t) − log π_old(y_t)))`.
///
/// # Shapes
/// `policy` and `old`: `[tokens of an answer]` each → `[answers]`.
pub fn sequence_ratios(policy: &[Tensor<1>], old: &[Vec<f32>]) -> Tensor<1> {
    let ratios = policy.iter().zip(old).map(|(policy, old)| {
        let old = constants(old.clone(), &policy.device());
        (policy.clone() - old).mean().exp()
    });
    Tensor::cat(ratios.collect(), 0)
}

/// Group sequence policy optimisation (GSPO, equation 5): `−mean_i min(s_i A_i, clip(s_i) A_i)`.
///
/// # Shapes
/// `ratios` and `advantages` `[answers]` → `[1]`.
pub fn gspo(ratios: Tensor<1>, advantages: &[f64], range: ClipRange) -> Tensor<1> {
    clipped(ratios, advantages, range).mean().neg()
}

/// `min(r A, clip(r) A)` of each ratio; a clipped one has no gradient.
fn clipped(ratios: Tensor<1>, advantages: &[f64], ClipRange { low, high }: ClipRange) -> Tensor<1> {
    let advantages = constants(advantages.iter().map(|a| *a as f32).collect(), &ratios.device());
    let free = ratios.clone() * advantages.clone();
    let held = ratios.clamp(1.0 - low, 1.0 + high) * advantages;
    let is_clipped = held.clone().lower(free.clone());
    free.mask_where(is_clipped, held)
}

/// GSPO-token (GSPO, equation 13): as [`gspo`] with an advantage for each token, which its own log-probability carries:
/// `s_t = sg[s_i] π(y_t) / sg[π(y_t)]`, where `sg` stops gradients. Mean over tokens, then over answers.
///
/// Value and gradient are those of [`gspo`] where all tokens of an answer have the same advantage.
///
/// # Shapes
/// `policy`, `old` and `advantages`: `[tokens of an answer]` each → `[1]`.
pub fn gspo_token(policy: &[Tensor<1>], old: &[Vec<f32>], advantages: &[Vec<f64>], range: ClipRange) -> Tensor<1> {
    let terms = policy.iter().zip(old).zip(advantages).map(|((policy, old), advantages)| {
        let ratio = sequence_ratios(std::slice::from_ref(policy), std::slice::from_ref(old)).detach();
        let ratios = ratio * (policy.clone() - policy.clone().detach()).exp();
        clipped(ratios, advantages, range).mean()
    });
    Tensor::cat(terms.collect(), 0).mean().neg()
}

/// GRPO's loss, for comparison: the clipped ratio of each token instead of each sequence, with its sequence's advantage; mean over
/// tokens, then over answers.
///
/// # Shapes
/// `policy` and `old`: `[tokens of an answer]` each → `[1]`.
pub fn token_level_grpo(policy: &[Tensor<1>], old: &[Vec<f32>], advantages: &[f64], range: ClipRange) -> Tensor<1> {
    let terms = policy.iter().zip(old).zip(advantages).map(|((policy, old), advantage)| {
        let ratios = (policy.clone() - constants(old.clone(), &policy.device())).exp();
        clipped(ratios, &vec![*advantage; old.len()], range).mean()
    });
    Tensor::cat(terms.collect(), 0).mean().neg()
}

/// Divergence of the policy from a reference by the estimator `e^d − d − 1`, `d = log π_ref − log π`; mean over tokens, then over
/// answers.
///
/// # Shapes
/// `policy` and `reference`: `[tokens of an answer]` each → `[1]`.
pub fn k3_divergence(policy: &[Tensor<1>], reference: &[Vec<f32>]) -> Tensor<1> {
    let terms = policy.iter().zip(reference).map(|(policy, reference)| {
        let d = constants(reference.clone(), &policy.device()) - policy.clone();
        (d.clone().exp() - d - 1.0).mean()
    });
    Tensor::cat(terms.collect(), 0).mean()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn equal_rewards_and_single_answers_have_no_advantage() {
        assert_eq!(advantages(&[1.0; 4]), [0.0; 4]);
        assert_eq!(advantages(&[3.0]), [0.0]);
        let found = advantages(&[1.0, 0.0]);
        assert!((found[0] - 0.5 / (0.5f64.sqrt() + 1e-6)).abs() < 1e-12 && found[0] == -found[1], "{found:?}");
    }

    #[test]
    fn a_sequence_that_left_the_range_in_its_favour_has_no_gradient() {
        let device = Device::flex().autodiff();
        // Ratios above, below and within the range, each with an advantage of either sign.
        let values = [1.3, 1.3, 0.5, 0.5, 1.0, 1.0];
        let ratios = Tensor::<1>::from_floats(values, &device).require_grad();
        let loss = gspo(ratios.clone(), &[1.0, -1.0, 1.0, -1.0, 1.0, -1.0], ClipRange::default());
        let gradient = nn::to_f32_vec(&ratios.grad(&loss.backward()).expect("a leaf"));
        let expected = [0.0, 1.0, -1.0, 0.0, -1.0, 1.0].map(|sign: f32| sign / 6.0);
        assert!(gradient.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7), "{gradient:?}");
    }

    /// Log-probabilities of three answers of different lengths, of which the last has left the range.
    fn answers(device: &Device) -> (Vec<Tensor<1>>, Vec<Vec<f32>>) {
        let values = [vec![-1.0f32, -0.5], vec![-2.0, -0.1, -0.7], vec![-0.3]];
        let policy = values.iter().map(|values| constants(values.clone(), device).require_grad()).collect();
        (policy, vec![vec![-1.0002, -0.4999], vec![-2.0001, -0.1, -0.7003], vec![-0.5]])
    }

    fn gradients(policy: &[Tensor<1>], loss: &Tensor<1>) -> Vec<Vec<f32>> {
        let graph = loss.backward();
        policy.iter().map(|leaf| nn::to_f32_vec(&leaf.grad(&graph).expect("a leaf"))).collect()
    }

    #[test]
    fn token_and_sequence_form_agree_where_an_answer_has_one_advantage() {
        let device = Device::flex().autodiff();
        let advantages = [0.7, -1.2, 0.5];
        let (policy, old) = answers(&device);
        let whole = gspo(sequence_ratios(&policy, &old), &advantages, ClipRange::default());
        let expected = gradients(&policy, &whole);
        let each: Vec<Vec<f64>> = advantages.iter().zip(&old).map(|(a, old)| vec![*a; old.len()]).collect();
        let by_token = gspo_token(&policy, &old, &each, ClipRange::default());
        let found = gradients(&policy, &by_token);
        let [whole, by_token] = [whole, by_token].map(|loss| loss.into_scalar::<f32>());
        assert!((whole - by_token).abs() < 1e-6, "{whole} and {by_token}");
        let pairs = || expected.iter().flatten().zip(found.iter().flatten());
        assert!(pairs().all(|(a, b)| (a - b).abs() < 1e-6), "{expected:?} and {found:?}");
        // The last answer is clipped as a whole; −A s / |y| / 3 for the tokens of the others.
        assert!(found[2] == [0.0] && (found[0][0] + 0.7 / 2.0 / 3.0).abs() < 1e-4, "{found:?}");
    }

    #[test]
    fn each_token_has_its_own_advantage() {
        let device = Device::flex().autodiff();
        let (policy, old) = answers(&device);
        let advantages = [vec![1.0, 0.0], vec![0.0, 0.0, -3.0], vec![0.0]];
        let found = gradients(&policy, &gspo_token(&policy, &old, &advantages, ClipRange::default()));
        let expected = [-1.0 / 2.0 / 3.0, 0.0, 0.0, 0.0, 3.0 / 3.0 / 3.0, 0.0];
        assert!(found.iter().flatten().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3), "{found:?}");
    }
}
