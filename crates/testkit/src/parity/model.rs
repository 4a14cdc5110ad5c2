//! The checkpoint whose cases are recomputed.

use std::path::PathBuf;

use checkpoint::{Checkpoint, ConfigSection};
use omni_core::{Dtype, Place, Result};

use super::limits::Limits;
use super::options::Options;

/// A checkpoint on a device; parts are loaded when a case asks for them.
pub(super) struct Model {
    #[cfg(feature = "parity-omni")]
    pub(super) directory: PathBuf,
    pub(super) golden: PathBuf,
    pub(super) checkpoint: Checkpoint,
    pub(super) place: Place,
    pub(super) device: burn::tensor::Device,
    pub(super) dtype: Dtype,
    pub(super) limits: Limits,
}

impl Model {
    pub(super) fn open(options: &Options) -> Result<Self> {
        Ok(Self {
            #[cfg(feature = "parity-omni")]
            directory: options.model.clone(),
            golden: options.golden.clone(),
            checkpoint: Checkpoint::open(&options.model)?,
            place: options.place.clone(),
            device: options.place.device().clone(),
            dtype: options.dtype,
            limits: options.limits()?,
        })
    }

    /// Reads the section of the config that belongs to one part.
    pub(super) fn section<C: ConfigSection>(&self) -> Result<C> {
        Ok(self.checkpoint.config().section()?)
    }

    /// Whether the checkpoint has the parts that speak.
    pub(super) fn speaks(&self) -> bool {
        self.checkpoint.config().get("enable_audio_output").and_then(serde_json::Value::as_bool).unwrap_or(true)
    }

    /// The token id that ends the text.
    pub(super) fn end_id(&self) -> Option<u32> {
        let id = self.checkpoint.config().get("im_end_token_id")?.as_u64()?;
        u32::try_from(id).ok()
    }
}
