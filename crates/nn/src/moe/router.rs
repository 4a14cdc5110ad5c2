use burn::module::Module;
use burn::tensor::{Int, Tensor};
use checkpoint::Weights;
use omni_core::Result;

use crate::Linear;

/// Chooses the experts of each token.
#[derive(Module, Debug)]
pub struct Router {
    pub(crate) gate: Linear,
    pub(crate) top_k: usize,
    pub(crate) normalise: bool,
}

/// Experts chosen for some tokens and their weights, as a probe sees them.
#[derive(Debug, Clone)]
pub struct Routing {
    /// `[N, E]`: the router's logits.
    pub logits: Tensor<2>,
    /// `[N, k]`: weights of the chosen experts, in the number type of the computation.
    pub weights: Tensor<2>,
    /// `[N * k]`: the experts of each row, best first.
    pub index: Vec<u32>,
}

/// Routing on a device.
#[derive(Debug, Clone)]
pub struct DeviceRouting {
    pub(crate) logits: Tensor<2>,
    pub(crate) weights: Tensor<2>,
    pub(crate) index: Tensor<2, Int>,
}

impl Router {
    /// Reads `gate.weight` `[E, D]`. With `normalise`, the chosen experts' weights are made to add up to 1.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, [experts, width]: [usize; 2], top_k: usize, normalise: bool) -> Result<Self> {
        Ok(Self { gate: Linear::load(&weights.at("gate"), [experts, width], false)?, top_k, normalise })
    }
}
