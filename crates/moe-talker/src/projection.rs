use burn::module::Module;
use checkpoint::Weights;
use nn::{Activation, Engine, Linear};
use omni_core::Result;

use crate::config::TalkerConfig;

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

    /// Projects rows to the talker's width.
    ///
    /// # Shapes
    /// `[N, thinker D]` → `[N, talker D]`.
    pub fn forward<E: Engine>(&self, e: &E, mut x: E::Rows) -> E::Rows {
        let mut inner = e.linear_act(&mut x, &self.linear_fc1, Activation::Silu);
        let [y] = e.linear(&mut inner, [&self.linear_fc2]);
        y
    }
}
