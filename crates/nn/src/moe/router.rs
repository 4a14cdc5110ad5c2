use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Int, Tensor};
use checkpoint::Weights;
use omni_core::Result;

use crate::Linear;
use crate::matrix::HostMatrix;

/// Chooses the experts of each token.
#[derive(Module, Debug)]
pub struct Router {
    gate: Linear,
    top_k: usize,
    normalise: bool,
}

/// Which experts each token goes to, and how much each counts.
#[derive(Debug, Clone)]
pub struct Routing {
    /// `[N, E]`: the router's scores.
    pub logits: Tensor<2>,
    /// `[N, k]`, in the number type of the computation.
    pub weights: Tensor<2>,
    /// `[N, k]`: best first.
    pub index: Tensor<2, Int>,
}

impl Router {
    /// Reads `gate.weight` `[E, D]`. With `normalise`, the chosen experts' weights are made to add up to 1.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, [experts, width]: [usize; 2], top_k: usize, normalise: bool) -> Result<Self> {
        Ok(Self { gate: Linear::load(&weights.at("gate"), [experts, width], false)?, top_k, normalise })
    }

    /// The gate, if it lies in host memory; experts per token; whether their weights are made to add up to 1.
    pub(crate) fn host(&self) -> Option<(HostMatrix, usize, bool)> {
        Some((self.gate.host()?.clone(), self.top_k, self.normalise))
    }

    /// Softmax over *all* experts in f32, then the best `k`; stays on the device.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, E]`, `[N, k]`, `[N, k]`.
    pub fn forward(&self, x: Tensor<2>) -> Routing {
        let dtype = x.dtype();
        let logits = self.gate.rows(x); // [N, E]
        let (weights, index) = softmax(logits.clone().cast(DType::F32), 1).topk_with_indices(self.top_k, 1);
        let weights = if self.normalise { weights.clone() / weights.sum_dim(1) } else { weights };
        Routing { logits, weights: weights.cast(dtype), index }
    }
}
