use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use checkpoint::{StoredMatrix, TensorKind, Weights};
use cpu_kernels::{Precision, Scales, Weight};
use omni_core::{Dtype, Result};

/// Implements burn's `Module` for a type without parameters.
#[macro_export]
macro_rules! without_parameters {
    ($type:ty) => {
        impl burn::module::Module for $type {
            fn visit<V: burn::module::ModuleVisitor>(&self, _: &mut V) {}
            fn map<M: burn::module::ModuleMapper>(self, _: &mut M) -> Self {
                self
            }
            fn to_device(self, _: &burn::tensor::Device) -> Self {
                self
            }
            fn fork(self, _: &burn::tensor::Device) -> Self {
                self
            }
            fn collect_devices(&self, devices: burn::module::Devices) -> burn::module::Devices {
                devices
            }
            fn materialize(self) -> Self {
                self
            }
            fn valid(&self) -> Self {
                self.clone()
            }
            fn train(self) -> Self {
                self
            }
        }
        impl burn::module::ModuleDisplayDefault for $type {
            fn content(&self, content: burn::module::Content) -> Option<burn::module::Content> {
                content.optional()
            }
        }
        impl burn::module::ModuleDisplay for $type {}
    };
}

/// The `[out, in]` matrix of a linear layer, in the form its engine multiplies.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One per matrix, which is larger by far.
pub enum Matrix {
    /// Floats on the device; trainable on an autodiff device.
    Dense(Param<Tensor<2>>),
    /// Packed integers on the device, which kernels read as they are and plain operations dequantise when used.
    Packed(PackedTensor),
    /// In host memory, as it lies in the file.
    Host(HostMatrix),
}

/// A matrix that is read where it lies in host memory.
#[derive(Debug, Clone)]
pub struct HostMatrix {
    stored: StoredMatrix,
    pub(crate) precision: Precision,
}

crate::without_parameters!(HostMatrix);

impl HostMatrix {
    /// Reads `weight` of this module.
    ///
    /// # Errors
    /// The errors of [`Weights::matrix`].
    pub(crate) fn load<const D: usize>(weights: &Weights, shape: [usize; D]) -> Result<Self> {
        Ok(Self::of(weights, weights.matrix(shape)?))
    }

    fn of(weights: &Weights, stored: StoredMatrix) -> Self {
        // bf16 was asked for, or the weights are coarser than bf16 anyway.
        let bf16 = weights.compute_dtype() == Dtype::Bf16 || stored.is_packed();
        Self { precision: if bf16 { Precision::Bf16 } else { Precision::F32 }, stored }
    }

    /// Makes a matrix from rearranged values `[out, in]`.
    pub(crate) fn of_values(weights: &Weights, values: &[f32], shape: [usize; 2]) -> Self {
        Self::of(weights, weights.matrix_of(values, shape))
    }

    pub(crate) fn weight(&self) -> Weight<'_> {
        self.stored.weight()
    }

    pub(crate) fn shape(&self) -> [usize; 2] {
        self.stored.shape()
    }
}

impl Matrix {
    /// Reads `weight` of this module, packed or not; of a weight with more axes, all but the first are inputs.
    ///
    /// # Errors
    /// The errors of [`Weights::matrix`] and [`Weights::tensor`].
    pub fn load<const D: usize>(weights: &Weights, shape: [usize; D], kind: TensorKind) -> Result<Self> {
        if weights.place().is_host() {
            return Ok(Matrix::Host(HostMatrix::load(weights, shape)?));
        }
        if weights.is_packed() {
            let stored = weights.matrix(shape)?;
            return Ok(match PackedTensor::new(&stored, weights.device(), weights.tensor_dtype()) {
                Some(packed) => Matrix::Packed(packed),
                None => Self::dense(unpacked(&stored, weights.device(), weights.tensor_dtype())),
            });
        }
        Ok(Matrix::Dense(weights.matrix_param(shape, kind)?))
    }

    pub(crate) fn dense(values: Tensor<2>) -> Self {
        Matrix::Dense(Param::from_tensor(values))
    }

    /// The values on a device, if they can be neither trained nor packed.
    pub(crate) fn fixed(&self) -> Option<Tensor<2>> {
        match self {
            Matrix::Dense(values) => Some(values.val()).filter(|values| !values.device().is_autodiff()),
            Matrix::Packed(_) | Matrix::Host(_) => None,
        }
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Matrix::Dense(tensor) => tensor.dims(),
            Matrix::Packed(packed) => packed.shape,
            Matrix::Host(host) => host.shape(),
        }
    }

    /// The matrix in host memory.
    ///
    /// # Panics
    /// If the model was loaded for a device.
    pub(crate) fn host(&self) -> &HostMatrix {
        match self {
            Matrix::Host(host) => host,
            _ => panic!("weights on a device were handed to the engine of host memory"),
        }
    }

    /// The values `[out, in]` on the device.
    ///
    /// # Panics
    /// If the model was loaded for host memory.
    pub(crate) fn tensor(&self) -> Tensor<2> {
        match self {
            Matrix::Dense(tensor) => tensor.val(),
            Matrix::Packed(packed) => packed.numbers(),
            Matrix::Host(_) => panic!("weights in host memory were handed to the engine of a device"),
        }
    }

    /// The packed integers on the device, if they are packed.
    pub(crate) fn packed(&self) -> Option<gpu_kernels::Packed<'_>> {
        match self {
            Matrix::Packed(packed) => Some(packed.packed()),
            _ => None,
        }
    }

    /// The given rows `[n, in]` on the device.
    ///
    /// # Panics
    /// If the model was loaded for host memory.
    pub(crate) fn select_rows(&self, index: Tensor<1, Int>) -> Tensor<2> {
        match self {
            Matrix::Packed(packed) => packed.select(packed.shape[0], index).squeeze_dim(1),
            _ => self.tensor().select(0, index),
        }
    }
}

/// The vector of a norm, a bias or a scale, in the form its engine reads.
#[derive(Module, Debug)]
pub enum Vector {
    /// On the device; trainable on an autodiff device.
    Param(Param<Tensor<1>>),
    /// In host memory.
    Host(HostVector),
}

/// Single-precision values in host memory.
#[derive(Debug, Clone)]
pub struct HostVector(std::sync::Arc<[f32]>);

crate::without_parameters!(HostVector);

impl Vector {
    /// Reads the vector `name` of this module.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, name: &str, length: usize) -> Result<Self> {
        Ok(match weights.place().is_host() {
            true => Vector::Host(HostVector(weights.values(name, &[length])?.into())),
            false => Vector::Param(weights.param(name, [length])?),
        })
    }

    /// Values in host memory.
    pub fn of_values(values: Vec<f32>) -> Self {
        Vector::Host(HostVector(values.into()))
    }

    /// Number of values.
    pub fn length(&self) -> usize {
        match self {
            Vector::Param(tensor) => tensor.dims()[0],
            Vector::Host(values) => values.0.len(),
        }
    }

    /// The values in host memory.
    ///
    /// # Panics
    /// If the model was loaded for a device.
    pub fn host(&self) -> &[f32] {
        match self {
            Vector::Host(values) => &values.0,
            Vector::Param(_) => panic!("weights on a device were handed to the engine of host memory"),
        }
    }

    /// The values on the device.
    ///
    /// # Panics
    /// If the model was loaded for host memory.
    pub fn tensor(&self) -> Tensor<1> {
        match self {
            Vector::Param(tensor) => tensor.val(),
            Vector::Host(_) => panic!("weights in host memory were handed to the engine of a device"),
        }
    }
}

/// Stacks the matrices of several layers along their rows, as floats on the device, packed or not.
///
/// # Errors
/// The errors of [`Weights::matrix`].
pub(crate) fn stacked_numbers<'a>(parts: impl Iterator<Item = Weights<'a>>, shape: [usize; 2]) -> Result<Tensor<2>> {
    let each = parts.map(|part| Ok(unpacked(&part.matrix(shape)?, part.device(), part.tensor_dtype())));
    Ok(Tensor::cat(each.collect::<Result<Vec<_>>>()?, 0))
}

/// All values as floats on a device.
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

crate::without_parameters!(PackedTensor);

impl PackedTensor {
    /// Moves a packed matrix to the device; `None` if a row does not fill its words, or the groups do not fill the row.
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
        // Uploaded rows may be padded, and kernels would pack them again at every use.
        let floats = |values| {
            let values = Tensor::from_data(TensorData::new(values, [output, groups]), (device, dtype.into()));
            gpu_kernels::contiguous(values)
        };
        let words = TensorData::new(words, [output, input * bits / 32]);
        Some(Self {
            shape: [output, input],
            bits,
            // I32, whatever integers the device uses otherwise: wider ones would be no smaller than floats.
            words: gpu_kernels::contiguous_integers(Tensor::from_data(words, (device, DType::I32))),
            scales: floats(scales),
            zeros: zeros.map(floats),
        })
    }

    /// Stacks the packed matrices of several layers along their rows; `None` unless all are packed alike.
    ///
    /// # Errors
    /// The errors of [`Weights::matrix`].
    pub(crate) fn stacked<'a>(parts: impl Iterator<Item = Weights<'a>>, shape: [usize; 2]) -> Result<Option<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for part in parts {
            let packed = part.is_packed().then(|| part.matrix(shape)).transpose()?;
            match packed.and_then(|stored| Self::new(&stored, part.device(), part.tensor_dtype())) {
                Some(packed) if all.first().is_none_or(|first| first.like(&packed)) => all.push(packed),
                _ => return Ok(None),
            }
        }
        Ok(Some(Self::joined(all)))
    }

    /// Stacks matrices that are packed alike along their rows.
    pub(crate) fn joined(parts: Vec<Self>) -> Self {
        let first = &parts[0];
        let (shape, bits) = ([parts.iter().map(|part| part.shape[0]).sum(), first.shape[1]], first.bits);
        let stacked = |parts| gpu_kernels::contiguous(Tensor::cat(parts, 0));
        let scales = stacked(parts.iter().map(|part| part.scales.clone()).collect());
        let zeros: Option<Vec<_>> = parts.iter().map(|part| part.zeros.clone()).collect();
        let words = Tensor::cat(parts.into_iter().map(|part| part.words).collect(), 0);
        Self { shape, bits, words: gpu_kernels::contiguous_integers(words), scales, zeros: zeros.map(stacked) }
    }

    /// Whether two matrices can be stacked.
    fn like(&self, other: &Self) -> bool {
        self.bits == other.bits
            && self.scales.dims()[1] == other.scales.dims()[1]
            && self.zeros.is_some() == other.zeros.is_some()
    }

    /// A range of rows `[rows, in]`, still packed.
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

    /// Selects and dequantises some of `count` equal parts: `[n, rows of a part, in]`.
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

    /// The matrix as kernels read it.
    pub(crate) fn packed(&self) -> gpu_kernels::Packed<'_> {
        let Self { bits, words, scales, zeros, .. } = self;
        gpu_kernels::Packed { bits: *bits, words, scales, zeros: zeros.as_ref() }
    }

    /// The dequantised values `[out, in]`.
    pub(crate) fn numbers(&self) -> Tensor<2> {
        self.packed().numbers()
    }
}
