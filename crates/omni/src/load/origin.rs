//! Source of the weights: a checkpoint on disk, or random numbers.

use std::path::{Path, PathBuf};

use checkpoint::{ConfigFile, MemoryEstimate, QuantizationConfig, RandomCheckpoint, Weights};
use omni_core::{Dtype, Error, Place, PlaceKind, Result};

use super::model_files::{OmniCheckpoint, belongs};
use crate::config::{Component, OmniConfig};

/// A checkpoint, or the config of one with the seed of random weights.
pub(crate) enum Origin {
    Disk(Box<OmniCheckpoint>),
    Random { config: Box<OmniConfig>, weights: RandomCheckpoint, seed: u64 },
}

impl Origin {
    pub(crate) fn open(directory: &Path, random: Option<u64>, adapters: &[PathBuf]) -> Result<Self> {
        let Some(seed) = random else {
            let mut checkpoint = OmniCheckpoint::open(directory)?;
            adapters.iter().try_for_each(|adapter| checkpoint.add_adapter(adapter))?;
            return Ok(Origin::Disk(Box::new(checkpoint)));
        };
        if let Some(adapter) = adapters.first() {
            let reason = format!("adapter {}: random weights take none", adapter.display());
            return Err(Error::Request(reason));
        }
        let file = ConfigFile::read(&directory.join("config.json"))?;
        let config = Box::new(OmniConfig::of(&file)?);
        let weights = RandomCheckpoint::new(config.manifest()?, QuantizationConfig::of(&file)?.as_ref());
        Ok(Origin::Random { config, weights, seed })
    }

    pub(crate) fn config(&self) -> &OmniConfig {
        match self {
            Origin::Disk(checkpoint) => checkpoint.config(),
            Origin::Random { config, .. } => config,
        }
    }

    pub(crate) fn check(&self, components: &[Component]) -> Result<()> {
        match self {
            Origin::Disk(checkpoint) => Ok(checkpoint.check(components)?),
            Origin::Random { config, .. } => Ok(config.check(components)?),
        }
    }

    pub(crate) fn memory_estimate(&self, components: &[Component], place: PlaceKind, dtype: Dtype) -> MemoryEstimate {
        match self {
            Origin::Disk(checkpoint) => checkpoint.memory_estimate(components, place, dtype),
            Origin::Random { weights, .. } => weights.memory_estimate(|name| belongs(name, components), place, dtype),
        }
    }

    pub(crate) fn weights(&self, place: &Place, dtype: Dtype) -> Weights<'_> {
        match self {
            Origin::Disk(checkpoint) => Weights::new(checkpoint, place, dtype),
            Origin::Random { weights, seed, .. } => Weights::drawn(weights, place, dtype, *seed),
        }
    }

    /// Bytes of weights to read, or to draw.
    pub(crate) fn bytes(&self, components: &[Component], place: PlaceKind, dtype: Dtype) -> usize {
        match self {
            Origin::Disk(checkpoint) => {
                let wanted = checkpoint.tensors().iter().filter(|(name, _)| belongs(name, components));
                wanted.map(|(_, tensor)| tensor.len()).sum()
            }
            Origin::Random { .. } => self.memory_estimate(components, place, dtype).resident as usize,
        }
    }
}
