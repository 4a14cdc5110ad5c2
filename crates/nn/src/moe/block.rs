use burn::module::Module;
use checkpoint::Weights;
use omni_core::Result;

use super::{Experts, Router};
use crate::{Engine, GatedMlp, Linear};

/// Sizes of a mixture-of-experts block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MoeSpec {
    /// Experts `E`.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Whether the chosen experts' weights are made to add up to 1.
    pub normalise: bool,
    /// Width of one expert.
    pub inner: usize,
    /// Width of the shared expert, which every token passes through; 0 for none.
    pub shared: usize,
}

/// `Σ weight · expert(x)`, plus `sigmoid(shared_expert_gate(x)) · shared_expert(x)` where there is a shared expert.
///
/// On disk, `router` and `experts` are `gate` and `experts` of this module.
#[derive(Module, Debug)]
pub struct MoeBlock {
    router: Router,
    experts: Experts,
    shared_expert: Option<GatedMlp>,
    shared_expert_gate: Option<Linear>,
}

impl MoeBlock {
    /// Reads router, experts and shared expert.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, width: usize, spec: &MoeSpec) -> Result<Self> {
        let shared = (spec.shared > 0).then_some(());
        Ok(Self {
            router: Router::load(weights, [spec.experts, width], spec.top_k, spec.normalise)?,
            experts: Experts::load(weights, spec.experts, width, spec.inner)?,
            shared_expert: shared
                .map(|()| GatedMlp::load(&weights.at("shared_expert"), width, spec.shared))
                .transpose()?,
            shared_expert_gate: shared
                .map(|()| Linear::load(&weights.at("shared_expert_gate"), [1, width], false))
                .transpose()?,
        })
    }

    /// `residual + block(h)`, and the routing. `runs` are the numbers of rows of each run.
    ///
    /// # Shapes
    /// `residual` and `h` `[N, D]` → `[N, D]`.
    pub fn add_to<E: Engine>(
        &self,
        e: &E,
        mut residual: E::Rows,
        h: &mut E::Rows,
        runs: &[usize],
    ) -> (E::Rows, E::Routing) {
        if let (Some(expert), Some(gate)) = (&self.shared_expert, &self.shared_expert_gate) {
            let [gate] = e.linear(h, [gate]); // [N, 1]
            let y = expert.forward(e, h);
            residual = e.add_gated(residual, y, &gate);
        }
        let routing = e.route(h, &self.router, runs);
        (e.experts(residual, h, &routing, &self.experts), routing)
    }
}
