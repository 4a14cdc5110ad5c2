use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use checkpoint::{TalkerConfig, Weights};
use nn::Linear;
use omni_core::Result;

/// Thinker width to talker width: `fc2(silu(fc1(x)))`, with biases.
#[derive(Module, Debug)]
pub struct ResizeMlp {
    linear_fc1: Linear,
    linear_fc2: Linear,
}

impl ResizeMlp {
    pub(crate) fn load(weights: &Weights, config: &TalkerConfig) -> Result<Self> {
        let [from, inner, to] = [config.thinker_hidden_size, config.text.intermediate_size, config.text.hidden_size];
        Ok(Self {
            linear_fc1: Linear::load(&weights.at("linear_fc1"), [inner, from], true)?,
            linear_fc2: Linear::load(&weights.at("linear_fc2"), [to, inner], true)?,
        })
    }

    /// # Shapes
    /// `[B, T, thinker D]` → `[B, T, talker D]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.linear_fc2.forward(silu(self.linear_fc1.forward(x)))
    }
}
