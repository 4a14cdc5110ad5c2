//! The checkpoint whose losses and gradients are recomputed.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use checkpoint::Checkpoint;

use super::golden::damaged;
use crate::{ParamNames, Result};

/// A checkpoint and the golden cases that were made with it.
#[derive(Debug)]
pub struct Model {
    pub(super) checkpoint: Checkpoint,
    pub(super) names: ParamNames,
    pub(super) golden: PathBuf,
    pub(super) device: Device,
}

impl Model {
    /// Opens a checkpoint and a directory of golden cases.
    ///
    /// # Errors
    /// The errors of [`Checkpoint::open`].
    pub fn open(checkpoint: &Path, golden: &Path, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(checkpoint).map_err(omni_core::Error::from)?;
        let names = ParamNames::new(checkpoint.tensors().keys().cloned());
        Ok(Self { checkpoint, names, golden: golden.to_owned(), device: device.clone() })
    }

    /// The names of all cases of the directory, in order.
    ///
    /// # Errors
    /// [`crate::Error::Golden`] if the directory cannot be read or has no case.
    pub fn cases(&self) -> Result<Vec<String>> {
        let failed = |error: &dyn std::fmt::Display| damaged(&self.golden, error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.golden).map_err(|error| failed(&error))? {
            let path = entry.map_err(|error| failed(&error))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
            }
        }
        names.sort();
        match names.is_empty() {
            true => Err(failed(&"there is no golden case (CASE.json) in this directory")),
            false => Ok(names),
        }
    }
}
