use burn::module::{Module, Param};
use burn::tensor::module::layer_norm;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use checkpoint::Weights;
use omni_core::Result;

use crate::host::product;

/// `y = x Wᵀ + b`, with the weight `[out, in]` as it lies in the checkpoint.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// From `[out, in]` and `[out]`.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self { weight: Param::from_tensor(weight), bias: bias.map(Param::from_tensor) }
    }

    /// Reads `weight` `[out, in]` and, if asked for, `bias` `[out]`.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, [output, input]: [usize; 2], bias: bool) -> Result<Self> {
        let weight = weights.tensor("weight", [output, input])?;
        Ok(Self::new(weight, bias.then(|| weights.tensor("bias", [output])).transpose()?))
    }

    /// # Shapes
    /// `[B, T, in]` → `[B, T, out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        let y = self.rows(x.reshape([batch * tokens, width]));
        let output = y.dims()[1];
        y.reshape([batch, tokens, output]) // [B, T, out]
    }

    /// # Shapes
    /// `[N, in]` → `[N, out]`.
    pub fn rows(&self, x: Tensor<2>) -> Tensor<2> {
        product(x, self.weight.val(), self.bias.as_ref().map(Param::val)) // [N, out]
    }
}

/// A table of rows, one per id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[V, D]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Reads `weight` `[V, D]`.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, [rows, width]: [usize; 2]) -> Result<Self> {
        Ok(Self { weight: Param::from_tensor(weights.tensor("weight", [rows, width])?) })
    }

    /// # Shapes
    /// ids `[B, T]` → rows `[B, T, D]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, tokens] = ids.dims();
        let width = self.weight.dims()[1];
        self.weight.val().select(0, ids.reshape([batch * tokens])).reshape([batch, tokens, width])
    }
}

/// Ids as a batch of one row `[1, T]`, in the device's own integer type.
pub fn id_row(ids: &[u32], device: &Device) -> Tensor<2, Int> {
    let values: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    Tensor::from_data(TensorData::new(values, [1, ids.len()]), device)
}

/// LayerNorm with biased variance, computed in f32.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[D]`.
    pub weight: Param<Tensor<1>>,
    /// `[D]`.
    pub bias: Param<Tensor<1>>,
    eps: f64,
}

impl LayerNorm {
    /// Reads `weight` and `bias` `[D]`.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        let weight = Param::from_tensor(weights.tensor("weight", [width])?);
        let bias = Param::from_tensor(weights.tensor("bias", [width])?);
        Ok(Self { weight, bias, eps })
    }

    /// Normalises the last axis; any rank.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        if dtype == DType::F32 {
            return layer_norm(x, self.weight.val(), Some(self.bias.val()), self.eps);
        }
        let x = x.cast(DType::F32);
        let centred = x.clone() - x.mean_dim(D - 1);
        let variance = centred.clone().square().mean_dim(D - 1);
        let normed = (centred / (variance + self.eps).sqrt()).cast(dtype);
        normed * self.weight.val().unsqueeze() + self.bias.val().unsqueeze()
    }
}
