//! How far quantised weights are from what they were.

use qwen3_omni::Component;
use serde::{Deserialize, Serialize};

/// The error of one quantised matrix.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TensorError {
    /// The module.
    pub module: String,
    /// How it was quantised.
    pub scheme: String,
    /// Weights.
    pub weights: u64,
    /// Root of the mean square of the errors, relative to that of the weights.
    pub relative_rms: f64,
    /// The largest error.
    pub max_abs: f32,
    /// Sum of the squares of the weights.
    weight_squares: f64,
    /// Sum of the squares of the errors.
    error_squares: f64,
}

/// The error of all quantised matrices of a part of the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComponentError {
    /// The part.
    pub component: &'static str,
    /// Quantised matrices.
    pub tensors: usize,
    /// Their weights.
    pub weights: u64,
    /// Relative error of all tensors together; see [`TensorError::relative_rms`].
    pub relative_rms: f64,
    /// The largest error.
    pub max_abs: f32,
    /// The module with the largest relative error, and that error.
    pub worst: (String, f64),
}

/// The error made by quantising a checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// By part, in the order of the pipeline.
    pub components: Vec<ComponentError>,
    /// By matrix, in the order of the checkpoint.
    pub tensors: Vec<TensorError>,
}

/// Sums over a matrix that is processed piece by piece.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    weight_squares: f64,
    error_squares: f64,
    max_abs: f32,
}

impl Sums {
    pub(super) fn of(before: &[f32], after: &[f32]) -> Self {
        let mut sums = Self::default();
        // Sums of a few values in f32, of many in f64: precise, and fast.
        for (before, after) in before.chunks(256).zip(after.chunks(256)) {
            let (mut weights, mut errors) = (0f32, 0f32);
            for (was, is) in before.iter().zip(after) {
                let error = was - is;
                weights += was * was;
                errors += error * error;
                sums.max_abs = sums.max_abs.max(error.abs());
            }
            sums.weight_squares += f64::from(weights);
            sums.error_squares += f64::from(errors);
        }
        sums
    }

    pub(super) fn add(&mut self, other: Self) {
        self.weight_squares += other.weight_squares;
        self.error_squares += other.error_squares;
        self.max_abs = self.max_abs.max(other.max_abs);
    }

    pub(super) fn finish(self, module: &str, scheme: String, weights: u64) -> TensorError {
        let Self { weight_squares, error_squares, max_abs } = self;
        let relative_rms = relative(error_squares, weight_squares);
        TensorError { module: module.to_owned(), scheme, weights, relative_rms, max_abs, weight_squares, error_squares }
    }
}

/// Relative error; 0 for a matrix of zeros, which is reproduced exactly.
fn relative(errors: f64, weights: f64) -> f64 {
    if errors == 0.0 { 0.0 } else { (errors / weights).sqrt() }
}

impl Report {
    pub(super) fn new(tensors: Vec<TensorError>) -> Self {
        let components = Component::ALL.into_iter().filter_map(|component| {
            let of_part = |error: &&TensorError| Component::of(&format!("{}.", error.module)) == Some(component);
            ComponentError::new(component, &tensors.iter().filter(of_part).collect::<Vec<_>>())
        });
        Self { components: components.collect(), tensors }
    }
}

impl ComponentError {
    fn new(component: Component, tensors: &[&TensorError]) -> Option<Self> {
        let worst = tensors.iter().max_by(|a, b| a.relative_rms.total_cmp(&b.relative_rms))?;
        let sum = |of: fn(&TensorError) -> f64| tensors.iter().map(|error| of(error)).sum::<f64>();
        Some(Self {
            component: component.name(),
            tensors: tensors.len(),
            weights: tensors.iter().map(|error| error.weights).sum(),
            relative_rms: relative(sum(|error| error.error_squares), sum(|error| error.weight_squares)),
            max_abs: tensors.iter().map(|error| error.max_abs).fold(0.0, f32::max),
            worst: (worst.module.clone(), worst.relative_rms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_name_their_worst_module() {
        let error = |module: &str, before: &[f32], after: &[f32]| {
            Sums::of(before, after).finish(module, "int4 group 32".into(), before.len() as u64)
        };
        let report = Report::new(vec![
            error("thinker.lm_head", &[3.0, 4.0], &[3.0, 4.5]),
            error("thinker.model.layers.0.self_attn.q_proj", &[0.0, 0.0], &[0.0, 0.0]),
            error("talker.codec_head", &[1.0], &[1.0]),
        ]);
        assert_eq!(report.tensors[0].relative_rms, 0.1);
        let names: Vec<&str> = report.components.iter().map(|part| part.component).collect();
        assert_eq!(names, ["thinker", "talker"]);
        let thinker = &report.components[0];
        assert_eq!((thinker.tensors, thinker.weights, thinker.relative_rms, thinker.max_abs), (2, 4, 0.1, 0.5));
        assert_eq!(thinker.worst, ("thinker.lm_head".to_owned(), 0.1));
    }
}
