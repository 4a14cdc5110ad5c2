//! Random weights in place of a checkpoint's own: their ranges, and which of them are packed.

use std::collections::BTreeMap;

use omni_core::{Dtype, PlaceKind};

use crate::memory_estimate::of_matrix;
use crate::{Expected, Manifest, MemoryEstimate, QuantizationConfig, Scheme, TensorKind};

/// A config whose weights are drawn at random; see [`crate::Weights::drawn`].
///
/// Linear layers that `quantization_config` names are drawn packed.
#[derive(Debug, Clone)]
pub struct RandomCheckpoint {
    manifest: Manifest,
    /// By module.
    pub(crate) packed: BTreeMap<String, Scheme>,
}

impl RandomCheckpoint {
    /// Creates weights for the tensors in `manifest`.
    pub fn new(manifest: Manifest, quantization: Option<&QuantizationConfig>) -> Self {
        let scheme = |(name, expected): (&String, &Expected)| {
            let module = name.strip_suffix(".weight").filter(|_| expected.is_linear())?;
            Some((module.to_owned(), quantization?.scheme_of(module)?.clone()))
        };
        Self { packed: manifest.iter().filter_map(scheme).collect(), manifest }
    }

    /// Estimates the most memory that the weights whose names are `in_scope` take when they are drawn as `dtype`. Activations and
    /// KV caches come on top.
    pub fn memory_estimate(&self, in_scope: impl Fn(&str) -> bool, place: PlaceKind, dtype: Dtype) -> MemoryEstimate {
        let bytes = |(name, expected): (&String, &Expected)| {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let scheme = self.packed.get(module).zip(expected.shape.first_chunk::<2>());
            match scheme {
                Some((scheme, [outputs, inputs])) => {
                    let of_scale = if place == PlaceKind::Device { dtype.size() } else { Dtype::Bf16.size() };
                    outputs * (4 * scheme.words_in(*inputs) + of_scale * scheme.groups_in(*inputs))
                }
                None if place == PlaceKind::Host && expected.kind == TensorKind::Values => expected.elements() * 4,
                None => expected.elements() * of_matrix(place, dtype) as usize,
            }
        };
        let wanted = self.manifest.iter().filter(|(name, _)| in_scope(name));
        MemoryEstimate { resident: wanted.map(|tensor| bytes(tensor) as u64).sum(), mapped: 0 }
    }
}

/// The range that the values of a random tensor are drawn from: matrices scaled by their inputs, norms around 1, scales and biases
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
