//! Which tensors a model asks for: recorded from the functions that load it, without any weight.

use std::collections::BTreeMap;

use burn::tensor::Device;
use omni_core::{Dtype, Place, Result};

use crate::{Checkpoint, Weights};

/// What a model asks of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Shape on disk.
    pub shape: Vec<usize>,
    /// What the model does with it.
    pub kind: TensorKind,
}

/// What a model does with a tensor: decides the form it is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// The matrix of a linear layer, or of a convolution whose kernel is its stride: multiplied as it is stored.
    Linear,
    /// A table whose rows are looked up.
    Table,
    /// Anything else: vectors, and kernels of convolutions.
    Values,
}

impl Expected {
    /// Whether the tensor is the matrix of a linear layer: the only ones that may be packed.
    pub fn is_linear(&self) -> bool {
        self.kind == TensorKind::Linear && self.shape.len() == 2
    }

    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Tensor names, each with what is expected of it.
pub type Manifest = BTreeMap<String, Expected>;

/// The tensors that `load` asks for. Nothing is read and nothing is allocated on the device; what `load` returns is dropped.
///
/// # Errors
/// Those of `load` that have no tensor as their cause.
pub fn record<T>(device: &Device, load: impl FnOnce(&Weights) -> Result<T>) -> Result<Manifest> {
    let weights = Weights::recording(device);
    load(&weights)?;
    Ok(weights.recorded())
}

impl Checkpoint {
    /// Loads one model: lists the tensors that `load` asks for, checks those on disk that are `in_scope` by their names, and loads.
    ///
    /// # Errors
    /// Those of [`Checkpoint::check`] and of `load`.
    pub fn load<T>(
        &self,
        place: &Place,
        dtype: Dtype,
        in_scope: impl Fn(&str) -> bool,
        load: impl Fn(&Weights) -> Result<T>,
    ) -> Result<T> {
        self.check(&record(place.device(), &load)?, in_scope)?;
        load(&Weights::new(self, place, dtype))
    }
}
