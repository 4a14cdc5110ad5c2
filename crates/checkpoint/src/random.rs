//! Random weights in place of a checkpoint's own: their range, and which of them are packed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use omni_core::{Dtype, PlaceKind};

use crate::directory::CONFIG;
use crate::manifest::{Component, expected, is_linear};
use crate::need::{is_matrix, of_matrix};
use crate::{CheckpointError, MemoryNeed, OmniConfig, QuantizationConfig, Scheme};

/// A checkpoint directory of which only the config is read; [`crate::Weights::drawn`] draws the weights.
///
/// Linear layers that `quantization_config` names are drawn packed.
#[derive(Debug, Clone)]
pub struct RandomCheckpoint {
    directory: PathBuf,
    config: OmniConfig,
    /// By module.
    pub(crate) packed: BTreeMap<String, Scheme>,
}

impl RandomCheckpoint {
    /// Reads `config.json` of a directory, in which no weights need lie.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the key that is missing or wrong.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let directory = directory.as_ref().to_owned();
        let path = directory.join(CONFIG);
        let (config, quantization) = (OmniConfig::read(&path)?, QuantizationConfig::read(&path)?);
        let packed = quantization.map_or_else(BTreeMap::new, |quantization| packed_modules(&config, &quantization));
        Ok(Self { directory, config, packed })
    }

    /// The contents of `config.json`.
    pub fn config(&self) -> &OmniConfig {
        &self.config
    }

    /// Whether the config has what these parts need.
    ///
    /// # Errors
    /// [`CheckpointError::Json`] naming the key that is missing.
    pub fn check(&self, components: &[Component]) -> Result<(), CheckpointError> {
        self.config.check_parts(components, &self.directory.join(CONFIG))
    }

    /// What the weights of some parts take at most when they are drawn as `dtype`. Activations and caches come on top.
    pub fn memory_need(&self, components: &[Component], place: PlaceKind, dtype: Dtype) -> MemoryNeed {
        let all = expected(&self.config);
        let wanted = |name: &str| Component::of(name).is_some_and(|component| components.contains(&component));
        let bytes = |(name, shape): (&String, &Vec<usize>)| {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let scheme = self.packed.get(module).zip(shape.first_chunk::<2>());
            match scheme {
                Some((scheme, [outputs, inputs])) => {
                    let of_scale = if place == PlaceKind::Device { dtype.size() } else { Dtype::Bf16.size() };
                    outputs * (4 * scheme.words_in(*inputs) + of_scale * scheme.groups_in(*inputs))
                }
                None if place == PlaceKind::Host && !is_matrix(name, shape) => shape.iter().product::<usize>() * 4,
                None => shape.iter().product::<usize>() * of_matrix(place, dtype) as usize,
            }
        };
        let held = all.iter().filter(|(name, _)| wanted(name)).map(|tensor| bytes(tensor) as u64).sum();
        MemoryNeed { held, mapped: 0 }
    }
}

fn packed_modules(config: &OmniConfig, quantization: &QuantizationConfig) -> BTreeMap<String, Scheme> {
    let scheme = |(name, shape): (String, Vec<usize>)| {
        let module = name.strip_suffix(".weight").filter(|_| is_linear(&name, &shape))?;
        Some((module.to_owned(), quantization.scheme_of(module)?.clone()))
    };
    expected(config).into_iter().filter_map(scheme).collect()
}

/// Between which numbers the values of a random tensor are drawn: matrices by their inputs, norms around 1, scales and biases
/// small, so that activations stay in range through all layers.
pub fn random_range(name: &str, shape: &[usize]) -> (f32, f32) {
    let ends = |suffix: &str| name.ends_with(suffix);
    match shape {
        _ if ends("layer_scale.scale") || ends("gamma") => (0.005, 0.015),
        _ if ends(".alpha") || ends(".beta") => (-0.1, 0.1),
        _ if ends(".bias") => (-0.01, 0.01),
        [_] => (0.9, 1.1),
        [_, inputs @ ..] => {
            let bound = (3.0 / inputs.iter().product::<usize>() as f32).sqrt();
            (-bound, bound)
        }
        [] => (0.0, 1.0),
    }
}
