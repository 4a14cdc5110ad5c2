use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use checkpoint::Weights;
use omni_core::Result;

use super::{Experts, Router, Routing};
use crate::host_decoder::HostFeedForward;
use crate::{GatedMlp, Linear};

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
    /// Width of the expert every token passes through; 0 for none.
    pub shared: usize,
}

/// `Σ weight · expert(x)`, plus `sigmoid(shared_expert_gate(x)) · shared_expert(x)` where there is a shared expert.
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
    /// As [`Weights::tensor`].
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

    /// The weights, if they lie in host memory.
    pub(crate) fn host(&self) -> Option<HostFeedForward> {
        let shared = match (&self.shared_expert, &self.shared_expert_gate) {
            (Some(expert), Some(gate)) => Some((expert.host()?, gate.host()?.clone())),
            _ => None,
        };
        let (router, top_k, normalise) = self.router.host()?;
        Some(HostFeedForward::Experts { router, top_k, normalise, experts: self.experts.host()?.clone(), shared })
    }

    /// # Shapes
    /// `[B, T, D]` → `[B, T, D]`, and the routing of the `B * T` tokens.
    pub fn forward(&self, x: Tensor<3>) -> (Tensor<3>, Routing) {
        let shape = x.dims();
        let x = x.flatten::<2>(0, 1); // [N, D]
        let routing = self.router.forward(x.clone());
        let mut out = self.experts.forward(x.clone(), &routing);
        if let (Some(expert), Some(gate)) = (&self.shared_expert, &self.shared_expert_gate) {
            out = out + sigmoid(gate.rows(x.clone())) * expert.rows(x);
        }
        (out.reshape(shape), routing)
    }
}
