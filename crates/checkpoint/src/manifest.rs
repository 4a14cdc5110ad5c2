//! The tensors that a model asks for, recorded from its loading functions without reading any weight.

use std::collections::BTreeMap;

use burn::tensor::Device;
use omni_core::{Dtype, Place, Result};

use crate::{Checkpoint, Weights};

/// What a model expects of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Shape on disk.
    pub shape: Vec<usize>,
    /// What the model does with it.
    pub kind: TensorKind,
}

/// What a model does with a tensor, which decides the form it is kept in.
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
    /// Whether the tensor is the matrix of a linear layer; only these may be packed.
    pub fn is_linear(&self) -> bool {
        self.kind == TensorKind::Linear && self.shape.len() == 2
    }

    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Expected tensors, by name.
pub type Manifest = BTreeMap<String, Expected>;

/// Records the tensors that `load` asks for. Nothing is read, and parameters take no memory; what `load` returns is dropped.
///
/// # Errors
/// [`omni_core::Error::Config`] as soon as there are more than `most`; errors of `load` that no tensor causes.
pub fn record<T>(device: &Device, most: usize, load: impl FnOnce(&Weights) -> Result<T>) -> Result<Manifest> {
    let weights = Weights::recording(device, most);
    load(&weights)?;
    Ok(weights.recorded())
}

impl Checkpoint {
    /// Loads one model: records the tensors that `load` asks for, checks those on disk whose names are `in_scope`, and loads.
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
        self.check(&record(place.device(), self.most_tensors(), &load)?, in_scope)?;
        load(&Weights::new(self, place, dtype))
    }
}
