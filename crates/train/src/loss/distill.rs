use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor};
use serde::{Deserialize, Serialize};

/// Divergence of a student from its teacher over the full vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistillLoss {
    /// `Σ p_S log(p_S / p_T)`: seeks the teacher's modes; the choice for on-policy data.
    #[default]
    ReverseKl,
    /// `Σ p_T log(p_T / p_S)`: covers the teacher's modes.
    ForwardKl,
    /// `β KL(p_T ‖ M) + (1 − β) KL(p_S ‖ M)` with the mixture `M = β p_T + (1 − β) p_S`.
    Jsd {
        /// Weight of the teacher, between 0 and 1.
        beta: f64,
    },
}

/// Divergence of student and teacher, mean over rows. With a temperature, both logits are divided by it and the value is multiplied by
/// its square, so that gradients keep their size.
///
/// # Shapes
/// `student` and `teacher` `[n, V]` → `[1]`.
///
/// # Panics
/// If the shapes differ.
pub fn distill(student: Tensor<2>, teacher: Tensor<2>, loss: DistillLoss, temperature: f64) -> Tensor<1> {
    let soft = |logits: Tensor<2>| log_softmax(logits.cast(DType::F32) / temperature, 1);
    let [s, t] = [student, teacher].map(soft);
    let rows = match loss {
        DistillLoss::ReverseKl => divergence(&s, &t),
        DistillLoss::ForwardKl => divergence(&t, &s),
        DistillLoss::Jsd { beta } => {
            let mixture = log_sum(t.clone() + beta.ln(), s.clone() + (1.0 - beta).ln());
            divergence(&t, &mixture) * beta + divergence(&s, &mixture) * (1.0 - beta)
        }
    };
    rows.mean() * temperature.powi(2)
}

/// `log(e^a + e^b)`, finite where both are too small for f32.
fn log_sum(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let larger = a.clone().max_pair(b.clone()).detach();
    larger.clone() + ((a - larger.clone()).exp() + (b - larger).exp()).log()
}

/// `Σ p log(p / q)` of each row, from log-probabilities.
fn divergence(p: &Tensor<2>, q: &Tensor<2>) -> Tensor<2> {
    (p.clone().exp() * (p.clone() - q.clone())).sum_dim(1)
}

/// Divergence over some ids of each row, both sides renormalised over them: all that a teacher gives whose logits are stored. What the
/// student gives to other ids is not seen.
///
/// # Shapes
/// `student` `[n, V]`, `ids` and `teacher` `[n, k]` → `[1]`.
///
/// # Panics
/// If the shapes differ.
pub fn distill_top_k(
    student: Tensor<2>,
    ids: Tensor<2, Int>,
    teacher: Tensor<2>,
    loss: DistillLoss,
    temperature: f64,
) -> Tensor<1> {
    distill(student.gather(1, ids), teacher, loss, temperature)
}

/// The `k` largest logits of each row with their ids.
///
/// # Shapes
/// `logits` `[n, V]` → `[n, k]` each.
///
/// # Panics
/// If `k` is 0 or beyond the vocabulary.
pub fn top_k(logits: Tensor<2>, k: usize) -> (Tensor<2, Int>, Tensor<2>) {
    let (best, ids) = logits.cast(DType::F32).topk_with_indices(k, 1);
    (ids, best)
}

/// Forward KL over the teacher's `k` best ids.
///
/// # Shapes
/// `student` `[n, V]`, `teacher` `[n, V]` → `[1]`.
///
/// # Panics
/// If the shapes differ, or `k` is 0 or beyond the vocabulary.
pub fn forward_kl_top_k(student: Tensor<2>, teacher: Tensor<2>, k: usize) -> Tensor<1> {
    let (ids, best) = top_k(teacher, k);
    distill_top_k(student, ids, best, DistillLoss::ForwardKl, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    const LOSSES: [DistillLoss; 3] = [DistillLoss::ReverseKl, DistillLoss::ForwardKl, DistillLoss::Jsd { beta: 0.3 }];

    #[test]
    fn logits_far_apart_have_finite_losses_and_gradients() {
        let device = Device::flex().autodiff();
        let teacher = Tensor::<2>::from_floats([[0.0, 300.0, -300.0]], &Device::flex());
        for loss in LOSSES {
            let student = Tensor::<2>::from_floats([[200.0, -200.0, -500.0]], &device).require_grad();
            let value = distill(student.clone(), teacher.clone(), loss, 1.0);
            let gradient = nn::to_f32_vec(&student.grad(&value.backward()).expect("a leaf"));
            assert!(
                value.into_scalar::<f32>() > 0.5 && gradient.iter().all(|g| g.is_finite()),
                "{loss:?}: {gradient:?}"
            );
        }
    }

    #[test]
    fn all_ids_of_the_teacher_give_the_divergence_over_the_vocabulary() {
        let logits = |values: [[f32; 4]; 2]| Tensor::<2>::from_floats(values, &Device::flex());
        let (student, teacher) = (
            logits([[0.1, 2.0, -1.0, 0.5], [3.0, 1.0, 0.0, 0.2]]),
            logits([[1.0, 0.0, 0.3, 2.0], [0.0, 2.5, 1.0, 0.1]]),
        );
        for loss in LOSSES {
            let (ids, best) = top_k(teacher.clone(), 4);
            let found = distill_top_k(student.clone(), ids, best, loss, 2.0).into_scalar::<f32>();
            let whole = distill(student.clone(), teacher.clone(), loss, 2.0).into_scalar::<f32>();
            assert!((found - whole).abs() < 1e-6 && whole > 0.01, "{loss:?}: {found} and {whole}");
        }
    }
}
