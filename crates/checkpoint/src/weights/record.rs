//! Records what a model asks for, without reading any weight.

use std::rc::Rc;

use burn::tensor::Device;
use omni_core::{Dtype, Error, Place, Result};

use super::{Source, Weights};
use crate::{Checkpoint, Expected, Manifest, TensorKind};

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

impl Weights<'_> {
    /// Creates a source without weights: a model loaded from it records up to `most` tensors and cannot compute. Parameters are never
    /// allocated.
    pub(crate) fn recording(device: &Device, most: usize) -> Self {
        Self::from_source(Source::Record { manifest: Rc::default(), most }, &Place::Device(device.clone()), Dtype::F32)
    }

    /// Takes the manifest of recorded requests.
    pub(crate) fn recorded(&self) -> Manifest {
        match &self.source {
            Source::Record { manifest, .. } => manifest.take(),
            _ => Manifest::new(),
        }
    }

    pub(super) fn note(&self, name: &str, shape: &[usize], kind: TensorKind) -> Result<()> {
        let Source::Record { manifest, most } = &self.source else { return Ok(()) };
        let mut manifest = manifest.borrow_mut();
        if manifest.len() >= *most {
            let reason = format!(
                "the config asks for more than {most} tensors (`{name}`, …): is a number of layers or experts wrong?"
            );
            return Err(Error::config(reason));
        }
        manifest.insert(name.to_owned(), Expected { shape: shape.to_vec(), kind });
        Ok(())
    }
}
