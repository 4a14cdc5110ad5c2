//! Limits on the difference between a result and the stored one.

use std::collections::BTreeMap;
use std::path::Path;

use omni_core::{Dtype, Error, Result};
use serde::Deserialize;

/// Limits on the difference from the reference: in f32 the rounding of sums, in bf16 and f16 twice the error that the reference itself
/// makes in that number type.
#[derive(Debug, Clone)]
pub(crate) enum Limits {
    /// The case's own limits, times a factor for the device.
    F32 { slack: f64 },
    /// The reference's own errors, by case; the limit is twice as much.
    Rounded(ReferenceErrors),
}

/// The reference's own errors in one number type, as `reference_bf16.py` writes them.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ReferenceErrors {
    #[serde(flatten)]
    tensors: OfType,
    choices: BTreeMap<String, BTreeMap<String, Vec<ChoiceError>>>,
    meta: Meta,
}

/// Errors by case and tensor, under the name of the number type.
#[derive(Debug, Clone, Deserialize)]
enum OfType {
    #[serde(rename = "bf16")]
    Bf16(BTreeMap<String, BTreeMap<String, TensorError>>),
    #[serde(rename = "f16")]
    F16(BTreeMap<String, BTreeMap<String, TensorError>>),
}

#[derive(Debug, Clone, Deserialize)]
struct Meta {
    routing_flips: BTreeMap<String, BTreeMap<String, Flips>>,
}

/// Number of rows and layers that the reference routes to another set of experts than in f32.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Flips {
    most: usize,
}

/// Largest and RMS error of one tensor.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct TensorError {
    pub(crate) max_abs: f64,
    pub(crate) rms: f64,
}

/// One greedy choice: the margin from the best to the second logit in f32, and the logits' largest error.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct ChoiceError {
    pub(crate) margin: f64,
    pub(crate) error: f64,
}

/// Multiple of the reference's own error that is allowed.
const FACTOR: f64 = 2.0;

impl Limits {
    /// Reads the reference's errors in `dtype`.
    pub(crate) fn read(path: &Path, dtype: Dtype) -> Result<Self> {
        let refuse = |reason: String| Error::Request(format!("{}: {reason}", path.display()));
        let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        let errors: ReferenceErrors = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
        match (&errors.tensors, dtype) {
            (OfType::Bf16(_), Dtype::Bf16) | (OfType::F16(_), Dtype::F16) => Ok(Limits::Rounded(errors)),
            _ => Err(refuse(format!("it has no errors of the reference in {dtype}"))),
        }
    }

    /// Factor on the limits of results that do not depend on the number type.
    pub(crate) fn slack(&self) -> f64 {
        match self {
            Limits::F32 { slack } => *slack,
            Limits::Rounded(_) => 1.0,
        }
    }

    /// The limits of a kind of case; without weights, the number type does not matter.
    pub(crate) fn of_kind(&self, computes: bool) -> Self {
        if computes { self.clone() } else { Limits::F32 { slack: self.slack() } }
    }

    /// Whether the number type is coarser than that of the stored results.
    pub(crate) fn is_rounded(&self) -> bool {
        matches!(self, Limits::Rounded(_))
    }

    /// Largest and RMS error allowed of a tensor that need not be exact, where the reference's own error limits it; `None` in f32.
    pub(crate) fn of_tensor(&self, case: &str, tensor: &str) -> Option<Result<TensorError, String>> {
        let Limits::Rounded(errors) = self else { return None };
        let (OfType::Bf16(tensors) | OfType::F16(tensors)) = &errors.tensors;
        let found = tensors.get(case).and_then(|case| case.get(tensor));
        let allowed = found.map(|error| TensorError { max_abs: FACTOR * error.max_abs, rms: FACTOR * error.rms });
        Some(allowed.ok_or_else(|| "the reference's own error is not stored".to_owned()))
    }

    /// Whether a greedy choice must be the stored one.
    pub(crate) fn decides(&self, case: &str, choice: &str, step: usize) -> bool {
        let Limits::Rounded(errors) = self else { return true };
        let of_step = errors.choices.get(case).and_then(|case| case.get(choice)).and_then(|steps| steps.get(step));
        of_step.is_none_or(|choice| choice.margin > choice.error)
    }

    /// Number of rows and layers that may be routed elsewhere in some parts of a case. Where the reference changed none, one counts all
    /// the same: that no tie among a few hundred rows fell to the other side does not say that none is near.
    pub(crate) fn flips(&self, case: &str, parts: &[&str]) -> usize {
        let Limits::Rounded(errors) = self else { return 0 };
        let case = errors.meta.routing_flips.get(case);
        let most = case.and_then(|case| parts.iter().find_map(|part| case.get(*part))).map_or(0, |flips| flips.most);
        FACTOR as usize * most.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_decides_every_choice_of_nano_as_f32_does() {
        // It holds choices only.
        #[derive(Deserialize)]
        struct Nano {
            choices: BTreeMap<String, BTreeMap<String, Vec<ChoiceError>>>,
        }
        let text = std::fs::read(crate::fixtures().join("bf16/nano.json")).unwrap();
        let nano: Nano = serde_json::from_slice(&text).unwrap();
        let steps = || nano.choices.values().flat_map(BTreeMap::values).flatten();
        assert!(steps().count() > 1000);
        let close = steps().find(|choice| FACTOR * choice.error >= choice.margin);
        assert!(close.is_none(), "{close:?}: nano's stored texts and codes cannot be asked for in bf16");
    }
}
