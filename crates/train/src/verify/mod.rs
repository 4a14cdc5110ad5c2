//! Recomputes stored losses, gradients and optimiser steps of a reference: every case of a directory of golden files, on any
//! checkpoint that they were made with.

mod cases;
mod compare;
mod golden;
mod model;
mod steps;

pub use compare::{Check, Checks};
pub use model::Model;

use crate::Result;

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
    /// Recomputes one case.
    ///
    /// # Errors
    /// [`crate::Error::Golden`] for files that are missing or damaged, and the errors of the model.
    pub fn run(&self, case: &str) -> Result<Outcome> {
        Ok(cases::run(self, case)?.map_or(Outcome::Unknown, Outcome::Checked))
    }
}
