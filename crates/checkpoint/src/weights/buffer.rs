//! A buffer for the values of one tensor in host memory.

use burn::tensor::{Device, Tensor, TensorData};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use omni_core::Dtype;

use crate::StoredMatrix;
use crate::arena::Arena;
use crate::stored::Bytes;

/// Values of one tensor, or of one layer's experts, in the number type of the computation.
pub(crate) enum Buffer {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

impl Buffer {
    pub(crate) fn new(dtype: Dtype, elements: usize) -> Self {
        match dtype {
            Dtype::F32 => Buffer::F32(Vec::with_capacity(elements)),
            Dtype::Bf16 => Buffer::Bf16(Vec::with_capacity(elements)),
            Dtype::F16 => Buffer::F16(Vec::with_capacity(elements)),
        }
    }

    pub(crate) fn append(&mut self, bytes: &[u8], stored: Dtype) {
        match self {
            Buffer::F32(out) => extend(out, bytes, stored, |x| x, bf16::to_f32, f16::to_f32),
            Buffer::Bf16(out) => extend(out, bytes, stored, bf16::from_f32, |x| x, |x| bf16::from_f32(x.to_f32())),
            Buffer::F16(out) => extend(out, bytes, stored, f16::from_f32, |x| f16::from_f32(x.to_f32()), |x| x),
        }
    }

    pub(crate) fn extend_from_f32(&mut self, values: &[f32]) {
        match self {
            Buffer::F32(out) => out.extend_from_slice(values),
            Buffer::Bf16(out) => out.extend(values.iter().map(|x| bf16::from_f32(*x))),
            Buffer::F16(out) => out.extend(values.iter().map(|x| f16::from_f32(*x))),
        }
    }

    /// # Panics
    /// For any type but f32.
    pub(crate) fn into_f32(self) -> Vec<f32> {
        match self {
            Buffer::F32(values) => values,
            _ => unreachable!("a buffer of f32 was asked for"),
        }
    }

    /// The values as they lie in memory.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Buffer::F32(values) => bytemuck::cast_slice(values),
            Buffer::Bf16(values) => bytemuck::cast_slice(values.reinterpret_cast()),
            Buffer::F16(values) => bytemuck::cast_slice(values.reinterpret_cast()),
        }
    }

    pub(super) fn bytes(self, arena: &mut Arena) -> Bytes {
        Bytes::kept(self.as_bytes(), arena)
    }

    /// # Panics
    /// For f16, in which no matrix is kept.
    pub(super) fn matrix(self, shape: [usize; 2], arena: &mut Arena) -> StoredMatrix {
        match self {
            Buffer::F32(_) => StoredMatrix::f32(shape, self.bytes(arena)),
            Buffer::Bf16(_) => StoredMatrix::bf16(shape, self.bytes(arena)),
            Buffer::F16(_) => unreachable!("matrices are kept in f32 or bf16"),
        }
    }

    pub(super) fn upload<const D: usize>(self, shape: [usize; D], device: &Device, dtype: Dtype) -> Tensor<D> {
        let data = match self {
            Buffer::F32(values) => TensorData::new(values, shape),
            Buffer::Bf16(values) => TensorData::new(values, shape),
            Buffer::F16(values) => TensorData::new(values, shape),
        };
        Tensor::from_data(data, (device, dtype.into()))
    }
}

/// Appends little-endian numbers of the stored type, converted.
fn extend<T>(
    out: &mut Vec<T>,
    bytes: &[u8],
    stored: Dtype,
    from_f32: impl Fn(f32) -> T,
    from_bf16: impl Fn(bf16) -> T,
    from_f16: impl Fn(f16) -> T,
) {
    let (fours, _) = bytes.as_chunks::<4>();
    let (twos, _) = bytes.as_chunks::<2>();
    match stored {
        Dtype::F32 => out.extend(fours.iter().map(|b| from_f32(f32::from_le_bytes(*b)))),
        Dtype::Bf16 => out.extend(twos.iter().map(|b| from_bf16(bf16::from_le_bytes(*b)))),
        Dtype::F16 => out.extend(twos.iter().map(|b| from_f16(f16::from_le_bytes(*b)))),
    }
}
