//! One-dimensional tensors from numbers of the host.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// A one-dimensional tensor of indices.
pub(crate) fn indices(values: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// A one-dimensional tensor of constants.
pub(crate) fn constants(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
