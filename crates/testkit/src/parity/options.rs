//! What to verify, where, and within which limits.

use std::path::PathBuf;

use omni_core::{Dtype, Error, Place, Result};

use super::limits::Limits;

/// What to verify, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The checkpoint directory.
    pub model: PathBuf,
    /// The golden directory.
    pub golden: PathBuf,
    /// Prefixes of case names; only cases with one of them run, or all if empty.
    pub only: Vec<String>,
    /// Where the model computes, and on which engine.
    pub place: Place,
    /// The number type of the computation.
    pub dtype: Dtype,
    /// Factor on the f32 limits: a GPU sums in other orders than a CPU.
    pub slack: f64,
    /// The reference's own errors in that number type, which limit ours; needed for all but f32.
    pub reference_errors: Option<PathBuf>,
}

impl Options {
    /// Selects all cases of a directory, in f32, with the limits of a CPU.
    pub fn new(model: impl Into<PathBuf>, golden: impl Into<PathBuf>, place: Place) -> Self {
        let (model, golden, only) = (model.into(), golden.into(), Vec::new());
        Self { model, golden, only, place, dtype: Dtype::F32, slack: 1.0, reference_errors: None }
    }

    pub(super) fn limits(&self) -> Result<Limits> {
        match (self.dtype, &self.reference_errors) {
            (Dtype::F32, _) => Ok(Limits::F32 { slack: self.slack }),
            (dtype, Some(path)) => Limits::read(path, dtype),
            (dtype, None) => {
                Err(Error::Request(format!("{dtype} is bounded by the reference's own errors in it: name their file")))
            }
        }
    }
}
