use burn::module::{Module, Param};
use burn::tensor::Tensor;
use checkpoint::Weights;
use omni_core::Result;

/// Snake activation with learned frequency and amplitude per channel: `x + sin²(x·e^α) / (e^β + 1e-9)`.
#[derive(Module, Debug)]
pub(crate) struct Snake {
    /// `[C]`, logarithm of the frequency.
    alpha: Param<Tensor<1>>,
    /// `[C]`, logarithm of the inverse amplitude.
    beta: Param<Tensor<1>>,
}

impl Snake {
    pub(crate) fn load(weights: &Weights, channels: usize) -> Result<Self> {
        let load = |name| weights.tensor(name, [channels]).map(Param::from_tensor);
        Ok(Self { alpha: load("alpha")?, beta: load("beta")? })
    }

    /// `[B, C, T]` → `[B, C, T]`.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let channels = self.alpha.dims()[0];
        let frequency = self.alpha.val().exp().reshape([1, channels, 1]);
        let amplitude = (self.beta.val().exp() + 1e-9).recip().reshape([1, channels, 1]);
        let sine = (x.clone() * frequency).sin();
        x + sine.square() * amplitude
    }
}
