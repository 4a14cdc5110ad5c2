use burn::module::Module;
use checkpoint::Weights;
use omni_core::Result;

use crate::{Engine, Linear, Vector};

/// SwiGLU: `down(silu(gate(x)) * up(x))`, without biases.
#[derive(Module, Debug)]
pub struct GatedMlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl GatedMlp {
    /// Reads the three projections; `inner` is the width between them.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, width: usize, inner: usize) -> Result<Self> {
        Ok(Self {
            gate_proj: Linear::load(&weights.at("gate_proj"), [inner, width], false)?,
            up_proj: Linear::load(&weights.at("up_proj"), [inner, width], false)?,
            down_proj: Linear::load(&weights.at("down_proj"), [width, inner], false)?,
        })
    }

    /// `mlp(h)`.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, D]`.
    pub fn forward<E: Engine>(&self, e: &E, h: &mut E::Rows) -> E::Rows {
        let mut inner = e.silu_gate(h, &self.gate_proj, &self.up_proj); // [N, inner]
        let [y] = e.linear(&mut inner, [&self.down_proj]);
        y
    }

    /// `residual + scale · mlp(h)`.
    ///
    /// # Shapes
    /// `residual` and `h` `[N, D]` → `[N, D]`.
    pub fn add_to<E: Engine>(&self, e: &E, residual: E::Rows, h: &mut E::Rows, scale: Option<&Vector>) -> E::Rows {
        let mut inner = e.silu_gate(h, &self.gate_proj, &self.up_proj); // [N, inner]
        e.add_linear(residual, &mut inner, &self.down_proj, scale)
    }
}
