//! The engine's device and number type, and the tensors it makes there.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use gpu_kernels::Windows;
use omni_core::Dtype;

use crate::tensors::joined;

/// Computes with burn tensors on one device.
#[derive(Debug, Clone)]
pub struct DeviceEngine {
    pub(super) device: Device,
    pub(super) dtype: Dtype,
    /// The windows of the last call, which all layers of an encoder share.
    windows: Arc<Mutex<Option<Windows>>>,
}

impl DeviceEngine {
    /// Makes an engine whose tensors have `dtype` and lie on `device`. All threads of the process share a queue on a GPU from then on; see
    /// [`gpu_kernels::share_stream`].
    pub fn new(device: &Device, dtype: Dtype) -> Self {
        gpu_kernels::share_stream();
        Self { device: device.clone(), dtype, windows: Arc::default() }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number type of the tensors.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Makes a one-dimensional tensor of integers.
    pub fn integers(&self, values: impl IntoIterator<Item = i64>) -> Tensor<1, Int> {
        let values: Vec<i64> = values.into_iter().collect();
        let count = values.len();
        Tensor::from_data(TensorData::new(values, [count]), &self.device)
    }

    /// Windows of the given lengths.
    pub(super) fn windows(&self, lengths: &[usize]) -> Windows {
        let mut last = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_ref().filter(|last| last.lengths() == lengths) {
            Some(windows) => windows.clone(),
            None => last.insert(Windows::new(lengths, &self.device)).clone(),
        }
    }

    pub(super) fn joined_rows(&self, parts: &[&Tensor<2>]) -> Tensor<2> {
        let parts = parts.iter().map(|part| (*part).clone().to_device(&self.device).cast(DType::from(self.dtype)));
        joined(parts.collect(), 0)
    }

    pub(super) fn indices(&self, values: &[usize]) -> Tensor<1, Int> {
        self.integers(values.iter().map(|value| *value as i64))
    }
}
