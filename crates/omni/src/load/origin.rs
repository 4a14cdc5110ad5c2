//! Source of the weights: a checkpoint on disk, or random numbers.

use std::path::Path;

use checkpoint::{Checkpoint, Component, MemoryNeed, OmniConfig, RandomCheckpoint, Weights};
use omni_core::{Dtype, Place, PlaceKind, Result};

/// A checkpoint, or the config of one with the seed of random weights.
pub(crate) enum Origin {
    Disk(Checkpoint),
    Random(RandomCheckpoint, u64),
}

impl Origin {
    pub(crate) fn open(directory: &Path, random: Option<u64>) -> Result<Self> {
        Ok(match random {
            None => Origin::Disk(Checkpoint::open(directory)?),
            Some(seed) => Origin::Random(RandomCheckpoint::open(directory)?, seed),
        })
    }

    pub(crate) fn config(&self) -> &OmniConfig {
        match self {
            Origin::Disk(checkpoint) => checkpoint.config(),
            Origin::Random(checkpoint, _) => checkpoint.config(),
        }
    }

    pub(crate) fn check(&self, components: &[Component]) -> Result<()> {
        match self {
            Origin::Disk(checkpoint) => Ok(checkpoint.check(components)?),
            Origin::Random(checkpoint, _) => Ok(checkpoint.check(components)?),
        }
    }

    pub(crate) fn memory_estimate(&self, components: &[Component], place: PlaceKind, dtype: Dtype) -> MemoryNeed {
        match self {
            Origin::Disk(checkpoint) => checkpoint.memory_need(components, place, dtype),
            Origin::Random(checkpoint, _) => checkpoint.memory_need(components, place, dtype),
        }
    }

    pub(crate) fn weights(&self, place: &Place, dtype: Dtype) -> Weights<'_> {
        match self {
            Origin::Disk(checkpoint) => Weights::new(checkpoint, place, dtype),
            Origin::Random(checkpoint, seed) => Weights::drawn(checkpoint, place, dtype, *seed),
        }
    }

    /// Bytes of weights to read, or to draw.
    pub(crate) fn bytes(&self, components: &[Component], place: PlaceKind, dtype: Dtype) -> usize {
        match self {
            Origin::Disk(checkpoint) => {
                let tensors = checkpoint.tensors().iter();
                let wanted = tensors.filter(|(name, _)| Component::of(name).is_some_and(|c| components.contains(&c)));
                wanted.map(|(_, tensor)| tensor.len()).sum()
            }
            Origin::Random(checkpoint, _) => checkpoint.memory_need(components, place, dtype).held as usize,
        }
    }
}
