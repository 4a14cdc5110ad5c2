//! A matrix that lies in a tensor of an adapter, whatever the order of its elements there.

use half::{bf16, f16};

use super::{Adapter, Named};
use crate::Dtype;

/// A matrix `shape` whose element `[i, j]` is the tensor's element `start + i * strides[0] + j * strides[1]`.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) tensor: Named,
    pub(super) start: usize,
    pub(super) strides: [usize; 2],
    pub(super) shape: [usize; 2],
}

impl View {
    /// The tensor as a row-major matrix.
    pub(super) fn of(tensor: &Named, shape: [usize; 2]) -> Self {
        Self { tensor: tensor.clone(), start: 0, strides: [shape[1], 1], shape }
    }

    pub(super) fn transposed(mut self) -> Self {
        self.strides.reverse();
        self.shape.reverse();
        self
    }

    /// The rows from `start` on.
    pub(super) fn rows(mut self, start: usize, count: usize) -> Self {
        self.start += start * self.strides[0];
        self.shape[0] = count;
        self
    }

    /// Every `step`-th column from `start` on.
    pub(super) fn columns(mut self, start: usize, step: usize) -> Self {
        self.start += start * self.strides[1];
        self.strides[1] *= step;
        self.shape[1] /= step;
        self
    }

    /// The values, row by row.
    pub(super) fn values(&self, adapter: &Adapter) -> Vec<f32> {
        let (bytes, dtype) = (adapter.bytes(&self.tensor), self.tensor.dtype);
        let [rows, columns] = self.shape;
        let place = |i: usize| (0..columns).map(move |j| self.start + i * self.strides[0] + j * self.strides[1]);
        (0..rows).flat_map(place).map(|at| number(bytes, dtype, at)).collect()
    }
}

fn number(bytes: &[u8], dtype: Dtype, at: usize) -> f32 {
    let two = || bytes.as_chunks::<2>().0[at];
    match dtype {
        Dtype::F32 => f32::from_le_bytes(bytes.as_chunks::<4>().0[at]),
        Dtype::Bf16 => bf16::from_le_bytes(two()).to_f32(),
        Dtype::F16 => f16::from_le_bytes(two()).to_f32(),
    }
}
