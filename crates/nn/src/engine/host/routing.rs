use cpu_kernels::Assignment;

use super::HostRows;
use crate::moe::Router;

/// The experts chosen for each row, with the router's logits.
#[derive(Debug)]
pub struct HostRouting {
    pub(super) logits: HostRows,
    pub(super) assignments: Vec<Assignment>,
    pub(super) top_k: usize,
}

/// Takes the softmax over all experts, then the `top_k` best experts of each row, best first.
pub(super) fn choose(logits: &HostRows, router: &Router, runs: &[usize]) -> Vec<Assignment> {
    let [_, experts] = logits.shape();
    let mut run_of_row = runs.iter().enumerate().flat_map(|(run, rows)| std::iter::repeat_n(run, *rows));
    let mut assignments = Vec::with_capacity(logits.shape()[0] * router.top_k);
    let mut taken = vec![false; experts];
    for (row, logits) in logits.values().chunks_exact(experts).enumerate() {
        let run = run_of_row.next().unwrap_or(0);
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = logits.iter().map(|logit| (logit - greatest).exp()).sum();
        let first = assignments.len();
        taken.fill(false);
        for _ in 0..router.top_k.min(experts) {
            // Ties go to the first expert, as elsewhere; where no logit is a number, any expert is taken.
            let open = logits.iter().enumerate().filter(|(expert, _)| !taken[*expert]);
            let best = open.reduce(|best, other| if other.1 > best.1 { other } else { best });
            let (expert, logit) = best.expect("there are more experts than are chosen");
            taken[expert] = true;
            assignments.push(Assignment { expert, row, run, weight: (logit - greatest).exp() / total });
        }
        if router.normalise {
            let sum: f32 = assignments[first..].iter().map(|assignment| assignment.weight).sum();
            assignments[first..].iter_mut().for_each(|assignment| assignment.weight /= sum);
        }
    }
    assignments
}
