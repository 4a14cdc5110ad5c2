use burn::module::{Module, Param};
use burn::tensor::module::layer_norm;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use checkpoint::Weights;
use kernels::{Affine, Inputs, LinearShape, Product, Then};
use omni_core::Result;

use crate::host::with_numbers;
use crate::matrix::{HostMatrix, Matrix};

/// `y = x Wᵀ + b`, with the weight `[out, in]` as it lies in the checkpoint.
#[derive(Module, Debug)]
pub struct Linear {
    #[module(skip)]
    weight: Matrix,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// From `[out, in]` and `[out]`.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self { weight: Matrix::Dense(weight), bias: bias.map(Param::from_tensor) }
    }

    /// Reads `weight` `[out, in]`, packed or not, and, if asked for, `bias` `[out]`. Of a weight with more axes, as of a convolution
    /// whose kernel is its stride, all but the first are inputs.
    ///
    /// # Errors
    /// As [`Weights::tensor`] and [`Weights::matrix`].
    pub fn load<const D: usize>(weights: &Weights, shape: [usize; D], bias: bool) -> Result<Self> {
        let bias = bias.then(|| weights.tensor("bias", [shape[0]])).transpose()?;
        Ok(Self { weight: Matrix::load(weights, shape)?, bias: bias.map(Param::from_tensor) })
    }

    /// Whether the weight lies in host memory.
    pub fn is_on_host(&self) -> bool {
        self.host().is_some()
    }

    /// Width of an output row.
    pub fn output(&self) -> usize {
        self.weight.shape()[0]
    }

    /// Width of an input row.
    pub fn input(&self) -> usize {
        self.weight.shape()[1]
    }

    pub(crate) fn host(&self) -> Option<&HostMatrix> {
        self.weight.host()
    }

    /// As [`Linear::rows`] without a bias, from `inputs` into `y`; `None` where the weight does not lie in host memory.
    pub fn rows_to(&self, inputs: &mut Inputs, y: &mut Vec<f32>) -> Option<()> {
        let matrix = self.host()?;
        let output = self.output();
        y.resize(inputs.rows() * output, 0.0);
        kernels::products(inputs, matrix.precision, &mut [Product { weight: matrix.weight(), output, bias: None, y }]);
        Some(())
    }

    /// As [`Linear::rows`], from memory to memory, with what follows.
    ///
    /// # Shapes
    /// `x` `[N, in]`, `y` `[N, out]`.
    ///
    /// # Panics
    /// If the weight does not lie in host memory, or the lengths do not agree.
    pub fn host_rows(&self, x: &[f32], then: Then, y: &mut [f32]) {
        let matrix = self.host().expect("the weight lies in host memory");
        let shape = LinearShape { rows: x.len() / self.input(), input: self.input(), output: self.output() };
        let mut run = |bias: Option<&[f32]>| {
            Affine { weight: matrix.weight(), bias, shape, precision: matrix.precision, then }.apply(x, y);
        };
        match &self.bias {
            Some(bias) => with_numbers(&bias.val(), |bias| run(Some(bias))),
            None => run(None),
        }
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
        self.weight.multiply(x, self.bias.as_ref().map(Param::val)) // [N, out]
    }
}

/// A table of rows, one per id.
#[derive(Module, Debug)]
pub struct Embedding {
    #[module(skip)]
    table: Matrix,
    #[module(skip)]
    device: Device,
}

impl Embedding {
    /// Reads `weight` `[V, D]`.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, shape: [usize; 2]) -> Result<Self> {
        Ok(Self { table: Matrix::load(weights, shape)?, device: weights.device().clone() })
    }

    /// Whether the table lies in host memory.
    pub fn is_on_host(&self) -> bool {
        self.table.host().is_some()
    }

    /// One row, into memory; `None` where the table does not lie in host memory.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_to(&self, id: u32, row: &mut [f32]) -> Option<()> {
        let table = self.table.host()?;
        table.weight().read(id as usize, self.table.shape()[1], 0, row);
        Some(())
    }

    /// Where rows are made.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// # Shapes
    /// ids `[B, T]` → rows `[B, T, D]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, tokens] = ids.dims();
        let [rows, width] = self.table.shape();
        match &self.table {
            Matrix::Dense(table) => table.clone().select(0, ids.reshape([batch * tokens])),
            Matrix::Packed(table) => table.select(rows, ids.reshape([batch * tokens])).squeeze_dim(1),
            Matrix::Host(table) => {
                let ids = ids.into_data().try_to_vec_as::<i64>().expect("ids are integers");
                let mut values = vec![0.0; ids.len() * width];
                for (id, row) in ids.iter().zip(values.chunks_exact_mut(width)) {
                    let id = usize::try_from(*id).ok().filter(|id| *id < rows).expect("an id of the table");
                    table.weight().read(id, width, 0, row);
                }
                Tensor::from_data(TensorData::new(values, [batch * tokens, width]), &self.device)
            }
        }
        .reshape([batch, tokens, width])
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

    /// Normalises rows `[N, D]`, from memory to memory.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn host_rows(&self, x: &[f32], y: &mut [f32]) {
        with_numbers(&self.weight.val(), |weight| {
            with_numbers(&self.bias.val(), |bias| kernels::layer_norm(x, [weight, bias], self.eps as f32, y));
        });
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
