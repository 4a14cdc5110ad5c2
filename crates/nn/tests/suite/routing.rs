//! The choice of experts, and the experts.

use checkpoint::Weights;
use proptest::prelude::*;
use qwen3_omni_nn::moe::{Experts, Router, Routing};
use qwen3_omni_nn::{Engine, to_f32_vec};

use crate::approx::{Approx, assert_near, exact};
use crate::formula::{Operands, product, silu, softmax, terms};
use crate::on_each_engine;
use crate::stored::{Stored, few_cases, rows, schemes};

/// A mixture of experts as it is stored.
struct Mixture {
    gate: Vec<f32>,
    /// Gate, up and down of each expert.
    experts: Vec<[Vec<f32>; 3]>,
    width: usize,
    inner: usize,
    top_k: usize,
    normalise: bool,
    packed: bool,
}

impl Mixture {
    fn draw(stored: &Stored, [experts, width, inner]: [usize; 3], top_k: usize, normalise: bool) -> Self {
        let gate = stored.matrix("gate.weight", [experts, width]);
        let parts = [("gate_proj", [inner, width]), ("up_proj", [inner, width]), ("down_proj", [width, inner])];
        let matrix = |expert, (name, shape)| stored.linear(&format!("experts.{expert}.{name}"), shape);
        let experts = (0..experts).map(|expert| parts.map(|part| matrix(expert, part))).collect();
        Self { gate, experts, width, inner, top_k, normalise, packed: stored.is_packed() }
    }

    fn load(&self, weights: &Weights) -> (Router, Experts) {
        let Self { width, inner, top_k, normalise, .. } = *self;
        let router = Router::load(weights, [self.experts.len(), width], top_k, normalise);
        (router.unwrap(), Experts::load(weights, self.experts.len(), width, inner).unwrap())
    }

    /// The terms of each number of an expert's output: an engine may add them to those of others in any order.
    fn outputs(&self, expert: usize, x: &[Approx], share: Approx, operands: Operands) -> Vec<Vec<Approx>> {
        let [gate, up, down] = &self.experts[expert];
        let [gate, up] = [gate, up].map(|matrix| product(x, matrix, operands));
        let inner: Vec<Approx> = gate.into_iter().zip(up).map(|(gate, up)| silu(gate) * up).collect();
        down.chunks_exact(self.inner).map(|down| terms(&inner, down, operands).map(|y| y * share).collect()).collect()
    }

    /// `residual + Σ weight · expert(x)` of a row, by the experts chosen for it and their weights.
    fn added_to(
        &self,
        residual: &[f32],
        x: &[f32],
        (chosen, shares): (&[u32], &[f32]),
        operands: Operands,
    ) -> Vec<Approx> {
        let each = chosen.iter().zip(shares);
        let outputs = each.map(|(expert, share)| self.outputs(*expert as usize, &exact(x), (*share).into(), operands));
        let outputs: Vec<_> = outputs.collect();
        let of_experts = |at: usize| outputs.iter().flat_map(move |terms| &terms[at]).copied();
        exact(residual).into_iter().enumerate().map(|(at, x)| Approx::sum(of_experts(at).chain([x]))).collect()
    }

    /// The best experts of a row of logits, best first, and their weights. The choice is made among the logits that the engine
    /// has: of two that are nearly equal, either may be the greater.
    fn choice(&self, logits: &[f32]) -> (Vec<u32>, Vec<Approx>) {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.truncate(self.top_k);
        let shares = softmax(&exact(logits));
        let shares: Vec<Approx> = order.iter().map(|expert| shares[*expert]).collect();
        let total = Approx::sum(shares.iter().copied());
        let weights = shares.into_iter().map(|share| if self.normalise { share / total } else { share });
        (order.iter().map(|expert| *expert as u32).collect(), weights.collect())
    }
}

/// Checks the logits, and what was chosen by them.
fn check_route(mixture: &Mixture, weights: &Weights, x: &[f32], routing: &Routing) {
    let of_row = |x: &[f32]| product(&exact(x), &mixture.gate, weights.compute_dtype());
    let expected: Vec<Approx> = x.chunks_exact(mixture.width).flat_map(of_row).collect();
    let logits = to_f32_vec(&routing.logits);
    assert_near(&logits, &expected, "the router's logits");
    let choices = logits.chunks_exact(mixture.experts.len()).map(|logits| mixture.choice(logits));
    let (index, shares): (Vec<_>, Vec<_>) = choices.unzip();
    assert_eq!(routing.index, index.concat(), "the experts");
    assert_near(&to_f32_vec(&routing.weights), &shares.concat(), "the experts' weights");
}

/// Checks the sum of the experts by the routing that was found.
fn check_experts(mixture: &Mixture, weights: &Weights, [residual, x]: [&[f32]; 2], routing: &Routing, found: &[f32]) {
    let shares = to_f32_vec(&routing.weights);
    let chosen = routing.index.chunks_exact(mixture.top_k).zip(shares.chunks_exact(mixture.top_k));
    let rows = residual.chunks_exact(mixture.width).zip(x.chunks_exact(mixture.width)).zip(chosen);
    // The rows of the batch, not those of each expert, decide how all experts multiply.
    let operands = Operands::of(weights, mixture.packed, x.len() / mixture.width);
    let expected = rows.flat_map(|((residual, x), chosen)| mixture.added_to(residual, x, chosen, operands));
    assert_near(found, &expected.collect::<Vec<_>>(), "experts");
}

fn check<E: Engine>(e: &E, weights: &Weights, mixture: &Mixture, [residual, x]: [&[f32]; 2], runs: &[usize]) {
    let ((router, experts), count) = (mixture.load(weights), runs.iter().sum());
    let mut input = rows(e, x, mixture.width);
    let routing = e.route(&mut input, &router, runs);
    let seen = e.routing(&routing, 0..count);
    check_route(mixture, weights, x, &seen);
    let last = e.routing(&routing, count - runs[runs.len() - 1]..count);
    assert!(seen.index.ends_with(&last.index), "the routing of the last run");
    check_route(mixture, weights, &x[x.len() - last.logits.dims()[0] * mixture.width..], &last);
    let y = e.values(e.experts(rows(e, residual, mixture.width), &mut input, &routing, &experts));
    check_experts(mixture, weights, [residual, x], &seen, &y);
}

proptest! {
    #![proptest_config(few_cases())]

    /// Few and many pairs of row and expert, which both engines compute by different paths.
    #[test]
    fn experts_of_rows(
        runs in prop::collection::vec(1..14usize, 1..4), sizes in (4..9usize, 1..50usize, 1..40usize),
        top_k in 1..5usize, normalise: bool, seed: u16,
    ) {
        let (stored, (experts, width, inner)) = (Stored::new(seed.into()), sizes);
        let mixture = Mixture::draw(&stored, [experts, width, inner], top_k, normalise);
        let count: usize = runs.iter().sum();
        let (residual, x) = (stored.noise(count * width), stored.noise(count * width));
        on_each_engine!(stored, |e, weights| check(e, weights, &mixture, [&residual, &x], &runs));
    }

    #[test]
    fn packed_experts_of_rows(
        runs in prop::collection::vec(1..14usize, 1..4), sizes in (4..9usize, 1..5usize, 1..5usize),
        top_k in 1..5usize, normalise: bool, scheme in schemes(), seed: u16,
    ) {
        let (stored, (experts, widths, inners)) = (Stored::packed(seed.into(), scheme), sizes);
        let mixture = Mixture::draw(&stored, [experts, 32 * widths, 32 * inners], top_k, normalise);
        let count: usize = runs.iter().sum();
        let [residual, x] = [(); 2].map(|()| stored.noise(count * mixture.width));
        on_each_engine!(stored, |e, weights| check(e, weights, &mixture, [&residual, &x], &runs));
    }
}
