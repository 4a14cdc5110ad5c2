//! One of the two checkpoints that are compared.

use std::path::Path;

use burn::tensor::{DType, Tensor};
use checkpoint::Weights;
use omni_core::{Dtype, Place, Result};
use qwen3_omni::{Device, OmniCheckpoint, OmniConfig};

/// One of the two checkpoints on the device.
pub(super) struct Side {
    pub(super) checkpoint: OmniCheckpoint,
    pub(super) place: Place,
    pub(super) dtype: Dtype,
}

impl Side {
    pub(super) fn open(directory: &Path, device: &Device, dtype: Dtype) -> Result<Self> {
        let checkpoint = OmniCheckpoint::open(directory)?;
        Ok(Self { checkpoint, place: device.place(dtype)?, dtype })
    }

    pub(super) fn weights(&self) -> Weights<'_> {
        Weights::new(&self.checkpoint, &self.place, self.dtype)
    }

    /// An input in the number type of this side's computation.
    pub(super) fn tensor<const D: usize>(&self, input: &Tensor<D>) -> Tensor<D> {
        input.clone().cast(DType::from(self.weights().tensor_dtype()))
    }

    pub(super) fn config(&self) -> &OmniConfig {
        self.checkpoint.config()
    }
}
