use burn::module::{Module, Param};
use burn::tensor::Tensor;
use checkpoint::{TensorKind, Weights};
use omni_core::Result;

use crate::matrix::{HostMatrix, Matrix, Vector};

/// `y = x Wᵀ + b`, with the weight `[out, in]` as it lies in the checkpoint.
#[derive(Module, Debug)]
pub struct Linear {
    pub(crate) weight: Matrix,
    /// `[out]`.
    pub(crate) bias: Option<Vector>,
}

impl Linear {
    /// Reads `weight` `[out, in]`, packed or not, and, if asked for, `bias` `[out]`. Of a weight with more axes, as of a convolution
    /// whose kernel is its stride, all but the first are inputs.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`] and [`Weights::matrix`].
    pub fn load<const D: usize>(weights: &Weights, shape: [usize; D], bias: bool) -> Result<Self> {
        let bias = bias.then(|| Vector::load(weights, "bias", shape[0])).transpose()?;
        Ok(Self { weight: Matrix::load(weights, shape, TensorKind::Linear)?, bias })
    }

    /// Makes a layer in host memory from a rearranged weight `[out, in]`.
    ///
    /// # Panics
    /// If the number of values does not match `shape`.
    pub fn of_values(weights: &Weights, values: &[f32], shape: [usize; 2], bias: Option<Vec<f32>>) -> Self {
        let weight = Matrix::Host(HostMatrix::of_values(weights, values, shape));
        Self { weight, bias: bias.map(Vector::of_values) }
    }

    /// Joins layers of the same rows into one, whose outputs lie side by side: one product on a device instead of several. `None` where
    /// each must stay by itself: in host memory, packed, or trained.
    pub fn joined(layers: &[&Self]) -> Option<Self> {
        let matrices = layers.iter().map(|layer| layer.weight.fixed()).collect::<Option<Vec<_>>>()?;
        let biases = layers.iter().map(|layer| Some(layer.bias.as_ref()?.tensor())).collect::<Option<Vec<_>>>()?;
        let bias = Vector::Param(Param::from_tensor(Tensor::cat(biases, 0)));
        Some(Self { weight: Matrix::dense(Tensor::cat(matrices, 0)), bias: Some(bias) })
    }

    /// Width of an output row.
    pub fn output(&self) -> usize {
        self.weight.shape()[0]
    }

    /// Width of an input row.
    pub fn input(&self) -> usize {
        self.weight.shape()[1]
    }
}

/// A table of rows, one per id.
#[derive(Module, Debug)]
pub struct Embedding {
    pub(crate) weight: Matrix,
}

impl Embedding {
    /// Reads `weight` `[V, D]`.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, shape: [usize; 2]) -> Result<Self> {
        Ok(Self { weight: Matrix::load(weights, shape, TensorKind::Table)? })
    }

    /// The table as the matrix of a language-model head that shares it.
    pub fn tied(&self) -> Linear {
        Linear { weight: self.weight.clone(), bias: None }
    }

    /// Number of rows of the table, `V`.
    pub fn rows(&self) -> usize {
        self.weight.shape()[0]
    }

    /// Width of a row `D`.
    pub fn width(&self) -> usize {
        self.weight.shape()[1]
    }
}
