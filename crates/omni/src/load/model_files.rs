//! The checkpoint directory of the whole model: its config, the tensors that its parts ask for, and those on disk.

use std::ops::Deref;
use std::path::Path;

use checkpoint::{Checkpoint, CheckpointError, Manifest, MemoryEstimate, TensorReport};
use omni_core::{Dtype, PlaceKind, Result};

use crate::config::{Component, OmniConfig};

/// An opened checkpoint directory: config read and the tensors of every part recorded; no weight read yet.
///
/// ```no_run
/// use qwen3_omni::{Component, OmniCheckpoint};
///
/// let checkpoint = OmniCheckpoint::open("/models/Qwen3-Omni-30B-A3B-Instruct")?;
/// checkpoint.check(&Component::ALL)?; // names every missing or mismatched tensor
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug)]
pub struct OmniCheckpoint {
    checkpoint: Checkpoint,
    config: OmniConfig,
    manifest: Manifest,
}

impl OmniCheckpoint {
    /// Opens a directory; see [`Checkpoint::open`].
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and [`OmniConfig::read`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        let checkpoint = Checkpoint::open(directory)?;
        let config = OmniConfig::of(checkpoint.config())?;
        let manifest = config.manifest_up_to(checkpoint.most_tensors())?;
        Ok(Self { checkpoint, config, manifest })
    }

    pub(super) fn checkpoint_mut(&mut self) -> &mut Checkpoint {
        &mut self.checkpoint
    }

    /// The contents of `config.json`.
    pub fn config(&self) -> &OmniConfig {
        &self.config
    }

    /// Every tensor that the parts of the model ask for.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Lists the differences between disk and config for `components`. Tensors that belong to no part count as unexpected.
    pub fn report(&self, components: &[Component]) -> TensorReport {
        self.checkpoint.report(&of(&self.manifest, components), in_scope(components))
    }

    /// Lists the differences between disk and another config; see [`OmniCheckpoint::report`].
    ///
    /// # Errors
    /// Those of [`OmniConfig::manifest`].
    pub fn report_against(&self, config: &OmniConfig, components: &[Component]) -> Result<TensorReport> {
        Ok(self.checkpoint.report(&of(&config.manifest()?, components), in_scope(components)))
    }

    /// Compares config, names, shapes and number types with what `components` need, before any weight is read.
    ///
    /// # Errors
    /// Those of [`OmniConfig::check`] and [`Checkpoint::check`].
    pub fn check(&self, components: &[Component]) -> std::result::Result<(), CheckpointError> {
        self.config.check(components)?;
        self.checkpoint.check(&of(&self.manifest, components), in_scope(components))
    }

    /// Estimates the memory of the weights of `components` when they are loaded as `dtype`; see [`Checkpoint::memory_estimate`].
    pub fn memory_estimate(&self, components: &[Component], place: PlaceKind, dtype: Dtype) -> MemoryEstimate {
        self.checkpoint.memory_estimate(&of(&self.manifest, components), place, dtype)
    }
}

impl Deref for OmniCheckpoint {
    type Target = Checkpoint;

    fn deref(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

/// Selects the tensors of `components`.
fn of(manifest: &Manifest, components: &[Component]) -> Manifest {
    let wanted = manifest.iter().filter(|(name, _)| belongs(name, components));
    wanted.map(|(name, expected)| (name.clone(), expected.clone())).collect()
}

/// Whether a tensor belongs to one of `components`.
pub(crate) fn belongs(name: &str, components: &[Component]) -> bool {
    Component::of(name).is_some_and(|component| components.contains(&component))
}

/// Selects the tensors of `components` and those that belong to no part.
fn in_scope(components: &[Component]) -> impl Fn(&str) -> bool {
    |name| Component::of(name).is_none_or(|component| components.contains(&component))
}
