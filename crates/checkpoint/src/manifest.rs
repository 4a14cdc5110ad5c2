//! The tensors that a model asks for, recorded from its loading functions without reading any weight.

use std::collections::BTreeMap;

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
