use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use checkpoint::Weights;
use omni_core::Result;

use crate::Linear;
use crate::host_decoder::HostMlp;

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
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, width: usize, inner: usize) -> Result<Self> {
        Ok(Self {
            gate_proj: Linear::load(&weights.at("gate_proj"), [inner, width], false)?,
            up_proj: Linear::load(&weights.at("up_proj"), [inner, width], false)?,
            down_proj: Linear::load(&weights.at("down_proj"), [width, inner], false)?,
        })
    }

    /// The matrices, if they lie in host memory.
    pub(crate) fn host(&self) -> Option<HostMlp> {
        Some([self.gate_proj.host()?.clone(), self.up_proj.host()?.clone(), self.down_proj.host()?.clone()])
    }

    /// # Shapes
    /// `[N, D]` → `[N, D]`.
    pub fn rows(&self, x: Tensor<2>) -> Tensor<2> {
        self.down_proj.rows(silu(self.gate_proj.rows(x.clone())) * self.up_proj.rows(x))
    }

    /// # Shapes
    /// `[B, T, D]` → `[B, T, D]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let shape = x.dims();
        self.rows(x.flatten(0, 1)).reshape(shape)
    }
}
