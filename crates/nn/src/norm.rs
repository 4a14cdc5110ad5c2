use burn::module::Module;
use checkpoint::Weights;
use gpu_kernels::{LayerNormWeights, PreNorm};
use omni_core::Result;

use crate::matrix::Vector;

/// RMSNorm: division by the root of the mean square, times a weight; computed in f32.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[D]`.
    pub(crate) weight: Vector,
    pub(crate) eps: f64,
}

impl RmsNorm {
    /// Reads `weight` `[D]`.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: Vector::load(weights, "weight", width)?, eps })
    }

    /// The norm of tensors on a device.
    pub(crate) fn on_device(&self) -> PreNorm {
        PreNorm { weight: self.weight.tensor(), eps: self.eps }
    }
}

/// LayerNorm with biased variance, computed in f32.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[D]`.
    pub(crate) weight: Vector,
    /// `[D]`.
    pub(crate) bias: Vector,
    pub(crate) eps: f64,
}

impl LayerNorm {
    /// Reads `weight` and `bias` `[D]`.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: Vector::load(weights, "weight", width)?, bias: Vector::load(weights, "bias", width)?, eps })
    }

    /// The norm of tensors on a device.
    pub(crate) fn on_device(&self) -> LayerNormWeights {
        LayerNormWeights { weight: self.weight.tensor(), bias: self.bias.tensor(), eps: self.eps }
    }
}
