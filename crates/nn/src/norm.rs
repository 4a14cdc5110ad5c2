use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use checkpoint::Weights;
use omni_core::Result;

use crate::host::numbers;
use crate::host_decoder::HostNorm;

/// RMSNorm: the mean square is taken in f32, the result cast back *before* the multiplication, as the reference does.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[D]`.
    pub weight: Param<Tensor<1>>,
    eps: f64,
}

impl RmsNorm {
    /// Reads `weight` `[D]`.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: Param::from_tensor(weights.tensor("weight", [width])?), eps })
    }

    /// As memory, for the CPU.
    pub(crate) fn host(&self) -> HostNorm {
        HostNorm { weight: numbers(&self.weight.val()), eps: self.eps as f32 }
    }

    /// Normalises the last axis; any rank.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let mean_square = x.clone().square().mean_dim(D - 1);
        let normed = (x / (mean_square + self.eps).sqrt()).cast(dtype);
        normed * self.weight.val().unsqueeze()
    }
}
