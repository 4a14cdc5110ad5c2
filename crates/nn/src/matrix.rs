use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use checkpoint::{StoredMatrix, Weights};
use kernels::{Precision, Scales, Weight};
use omni_core::{Dtype, Result};

use crate::host::product;

/// The `[out, in]` matrix of a linear layer, in the form its device multiplies it in.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // One per matrix, which is larger by far.
pub enum Matrix {
    /// Numbers on the device.
    Dense(Tensor<2>),
    /// Integers on the device, turned into numbers when they are used.
    Packed(PackedTensor),
    /// In host memory, as it lies in the file.
    Host(HostMatrix),
}

/// A matrix the CPU reads where it lies.
#[derive(Debug, Clone)]
pub struct HostMatrix {
    pub(crate) stored: StoredMatrix,
    pub(crate) precision: Precision,
}

impl HostMatrix {
    /// Reads `weight` of this module.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub(crate) fn load<const D: usize>(weights: &Weights, shape: [usize; D]) -> Result<Self> {
        let stored = weights.matrix(shape)?;
        Ok(Self { precision: precision(weights, &stored), stored })
    }

    pub(crate) fn weight(&self) -> Weight<'_> {
        self.stored.weight()
    }
}

/// bf16 was asked for, or the weights are coarser than bf16 anyway.
fn precision(weights: &Weights, stored: &StoredMatrix) -> Precision {
    if weights.asked_dtype() == Dtype::Bf16 || stored.is_packed() { Precision::Half } else { Precision::Full }
}

impl Matrix {
    /// Reads `weight` of this module, packed or not; of a weight with more axes, all but the first are inputs.
    ///
    /// # Errors
    /// As [`Weights::matrix`] and [`Weights::tensor`].
    pub fn load<const D: usize>(weights: &Weights, shape: [usize; D]) -> Result<Self> {
        if checkpoint::is_host(weights.device()) {
            return Ok(Matrix::Host(HostMatrix::load(weights, shape)?));
        }
        if weights.is_packed() {
            let stored = weights.matrix(shape)?;
            return Ok(match PackedTensor::new(&stored, weights.device(), weights.dtype()) {
                Some(packed) => Matrix::Packed(packed),
                None => Matrix::Dense(unpacked(&stored, weights.device(), weights.dtype())),
            });
        }
        Ok(Matrix::Dense(weights.tensor("weight", shape)?.reshape([shape[0] as i32, -1])))
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Matrix::Dense(tensor) => tensor.dims(),
            Matrix::Packed(packed) => packed.shape,
            Matrix::Host(host) => host.stored.shape(),
        }
    }

    /// The matrix, if it lies in host memory.
    pub(crate) fn host(&self) -> Option<&HostMatrix> {
        match self {
            Matrix::Host(host) => Some(host),
            _ => None,
        }
    }

    /// `x Wᵀ + b`.
    ///
    /// # Shapes
    /// `x` `[N, in]`, `bias` `[out]` → `[N, out]`.
    pub fn multiply(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        match self {
            Matrix::Dense(tensor) => product(x, tensor.clone(), bias),
            Matrix::Packed(packed) => product(x, packed.numbers(), bias),
            Matrix::Host(host) => crate::host::host_product(&x, host, bias),
        }
    }
}

/// The matrices of several layers below one another, as numbers on the device, packed or not.
///
/// # Errors
/// As [`Weights::matrix`].
pub(crate) fn stacked_numbers<'a>(parts: impl Iterator<Item = Weights<'a>>, shape: [usize; 2]) -> Result<Tensor<2>> {
    let each = parts.map(|part| Ok(unpacked(&part.matrix(shape)?, part.device(), part.dtype())));
    Ok(Tensor::cat(each.collect::<Result<Vec<_>>>()?, 0))
}

/// All values as numbers on a device.
fn unpacked(stored: &StoredMatrix, device: &Device, dtype: Dtype) -> Tensor<2> {
    let [output, input] = stored.shape();
    let mut values = vec![0.0; output * input];
    let rows = values.chunks_exact_mut(input.max(1)).enumerate();
    rows.for_each(|(row, values)| stored.weight().read(row, input, 0, values));
    Tensor::from_data(TensorData::new(values, [output, input]), (device, dtype.into()))
}

/// Packed integers of one or several matrices of the same shape, on a device.
#[derive(Debug, Clone)]
pub struct PackedTensor {
    shape: [usize; 2],
    bits: usize,
    /// `[out, words]`.
    words: Tensor<2, Int>,
    /// `[out, groups]`.
    scales: Tensor<2>,
    /// `[out, groups]`: the stored integer that stands for zero.
    zeros: Option<Tensor<2>>,
}

impl PackedTensor {
    /// `None` for a row that does not fill its words, or groups that do not fill the row.
    pub(crate) fn new(stored: &StoredMatrix, device: &Device, dtype: Dtype) -> Option<Self> {
        let [output, input] = stored.shape();
        let Weight::Packed(packed) = stored.weight() else { return None };
        let bits = packed.bits;
        if !input.is_multiple_of(32 / bits) || !input.is_multiple_of(packed.group) {
            return None;
        }
        let groups = input / packed.group;
        let words: Vec<i32> = packed.words.iter().map(|word| *word as i32).collect();
        let scales: Vec<f32> = match packed.scales {
            Scales::F32(scales) => scales.to_vec(),
            Scales::Bf16(scales) => scales.iter().map(|scale| f32::from_bits(u32::from(*scale) << 16)).collect(),
        };
        let middle = (1 << (bits - 1)) as f32;
        let zeros = packed.zeros.map(|zeros| zeros.iter().map(|zero| f32::from(*zero) + middle).collect::<Vec<_>>());
        let floats = |values| Tensor::from_data(TensorData::new(values, [output, groups]), (device, dtype.into()));
        let words_per_row = input * bits / 32;
        Some(Self {
            shape: [output, input],
            bits,
            // Whatever integers the device takes otherwise: wider ones would be no smaller than numbers.
            words: Tensor::from_data(TensorData::new(words, [output, words_per_row]), (device, DType::I32)),
            scales: floats(scales),
            zeros: zeros.map(floats),
        })
    }

    /// Several layers below one another; `None` unless all are packed alike.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub(crate) fn stacked<'a>(parts: impl Iterator<Item = Weights<'a>>, shape: [usize; 2]) -> Result<Option<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for part in parts {
            let packed = part.is_packed().then(|| part.matrix(shape)).transpose()?;
            match packed.and_then(|stored| Self::new(&stored, part.device(), part.dtype())) {
                Some(packed) if all.first().is_none_or(|first| first.like(&packed)) => all.push(packed),
                _ => return Ok(None),
            }
        }
        Ok(Some(Self::joined(all)))
    }

    /// Several that are alike below one another.
    pub(crate) fn joined(parts: Vec<Self>) -> Self {
        let first = &parts[0];
        let (shape, bits) = ([parts.iter().map(|part| part.shape[0]).sum(), first.shape[1]], first.bits);
        let scales = Tensor::cat(parts.iter().map(|part| part.scales.clone()).collect(), 0);
        let zeros: Option<Vec<_>> = parts.iter().map(|part| part.zeros.clone()).collect();
        let words = Tensor::cat(parts.into_iter().map(|part| part.words).collect(), 0);
        Self { shape, bits, words, scales, zeros: zeros.map(|zeros| Tensor::cat(zeros, 0)) }
    }

    /// Whether two can be stacked.
    fn like(&self, other: &Self) -> bool {
        self.bits == other.bits
            && self.scales.dims()[1] == other.scales.dims()[1]
            && self.zeros.is_some() == other.zeros.is_some()
    }

    /// Some rows `[rows, in]`, as numbers.
    pub(crate) fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let count = rows.len();
        Self {
            shape: [count, self.shape[1]],
            bits: self.bits,
            words: self.words.clone().narrow(0, rows.start, count),
            scales: self.scales.clone().narrow(0, rows.start, count),
            zeros: self.zeros.clone().map(|zeros| zeros.narrow(0, rows.start, count)),
        }
    }

    /// Those of the given of `count` equal parts, as numbers `[n, rows of a part, in]`.
    pub(crate) fn select(&self, count: usize, index: Tensor<1, Int>) -> Tensor<3> {
        let (rows, [_, input], [chosen]) = (self.shape[0] / count, self.shape, index.dims());
        let [words, groups] = [self.words.dims()[1], self.scales.dims()[1]];
        let floats =
            |x: Tensor<2>| x.reshape([count, rows * groups]).select(0, index.clone()).reshape([chosen * rows, groups]);
        let selected = Self {
            shape: [chosen * rows, input],
            bits: self.bits,
            scales: floats(self.scales.clone()),
            zeros: self.zeros.clone().map(floats),
            words: self
                .words
                .clone()
                .reshape([count, rows * words])
                .select(0, index.clone())
                .reshape([chosen * rows, words]),
        };
        selected.numbers().reshape([chosen, rows, input])
    }

    /// The values `[out, in]`: the reference body of the packed product.
    pub(crate) fn numbers(&self) -> Tensor<2> {
        let [output, input] = self.shape;
        let (per_word, mask) = (32 / self.bits, (1i64 << self.bits) - 1);
        let dtype = self.scales.dtype();
        let integers = (0..per_word).map(|place| {
            let shifted = self.words.clone().bitwise_right_shift_scalar((place * self.bits) as i64);
            shifted.bitwise_and_scalar(mask).unsqueeze_dim::<3>(2) // [out, words, 1]
        });
        let integers: Tensor<3, Int> = Tensor::cat(integers.collect(), 2); // [out, words, per word]
        let groups = self.scales.dims()[1];
        let values = integers.float().cast(dtype).reshape([output, groups, input / groups]);
        let centred = match &self.zeros {
            Some(zeros) => values - zeros.clone().unsqueeze_dim::<3>(2),
            None => values - (1u32 << (self.bits - 1)) as f32,
        };
        (centred * self.scales.clone().unsqueeze_dim::<3>(2)).reshape([output, input])
    }
}
