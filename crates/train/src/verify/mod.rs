//! Recomputes stored losses, gradients and optimiser steps of a reference: every case of a directory of golden files, on any
//! checkpoint that they were made with.

mod cases;
mod compare;
mod golden;
mod steps;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use checkpoint::Checkpoint;
use omni_core::Positions;

use compare::worse;
pub use compare::{Check, Checks};

use crate::{ParamNames, Result};

/// A checkpoint and the golden cases that were made with it.
#[derive(Debug)]
pub struct Model {
    checkpoint: Checkpoint,
    names: ParamNames,
    golden: PathBuf,
    device: Device,
}

/// What became of one case.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It was recomputed.
    Checked(Checks),
    /// No case of this name is known: it is not covered.
    Unknown,
}

impl Outcome {
    /// Whether the case was recomputed and every check passed.
    pub fn passed(&self) -> bool {
        matches!(self, Outcome::Checked(Checks(checks)) if !checks.is_empty() && checks.iter().all(Check::passed))
    }
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
        let failed = |error: &dyn std::fmt::Display| golden::damaged(&self.golden, error);
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

    /// Recomputes one case.
    ///
    /// # Errors
    /// [`crate::Error::Golden`] for files that are missing or damaged, and the errors of the model.
    pub fn run(&self, case: &str) -> Result<Outcome> {
        Ok(cases::run(self, case)?.map_or(Outcome::Unknown, Outcome::Checked))
    }
}

/// The values of a small tensor.
fn scalar(tensor: &Tensor<1>) -> Vec<f64> {
    nn::to_f32_vec(tensor).into_iter().map(f64::from).collect()
}

/// The values of several small tensors.
fn scalars(tensors: impl IntoIterator<Item = Tensor<1>>) -> Vec<f64> {
    tensors.into_iter().flat_map(|tensor| scalar(&tensor)).collect()
}

/// Standard deviation of all elements, with one less in the denominator.
fn deviation(tensor: &Tensor<2>) -> f64 {
    let values = nn::to_f32_vec(tensor);
    let mean = values.iter().copied().map(f64::from).sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// Compares the positions of rows with stored ones `[3, rows, columns]`, padded at the right.
fn positions(checks: &mut Checks, found: &[&Positions], stored: &[f64], [rows, columns]: [usize; 2]) {
    let mut largest = if found.len() == rows { 0.0 } else { f64::INFINITY };
    for (row, positions) in found.iter().enumerate() {
        for axis in 0..3 {
            let stored = &stored[(axis * rows + row) * columns..][..columns];
            let own = positions.axis(axis).iter().zip(stored);
            largest = own.map(|(a, b)| (f64::from(*a) - b).abs()).fold(largest, worse);
        }
    }
    checks.compare("positions", largest, 0.0);
}
