//! Verdicts on cases and on their tensors.

use serde::Serialize;

/// Report on one golden case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// The case's name.
    pub case: String,
    /// The verdict.
    pub outcome: Outcome,
    /// All comparisons.
    pub checks: Vec<Check>,
}

impl CaseReport {
    /// Whether the case passed, was absent, or was not covered while that is allowed.
    pub fn passes(&self, allow_uncovered: bool) -> bool {
        match &self.outcome {
            Outcome::Passed | Outcome::Absent(_) => true,
            Outcome::NotCovered(_) => allow_uncovered,
            Outcome::Failed(_) => false,
        }
    }
}

/// The result of one comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Name of the golden tensor, or of the part of it.
    pub tensor: String,
    /// Largest absolute difference; `None` if the shapes differ or a value is not finite.
    pub max_abs_error: Option<f64>,
    /// Largest difference allowed; 0 if it must be exact.
    pub tolerance: f64,
    /// Whether the comparison passed.
    pub passed: bool,
    /// What is wrong besides the numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Outcome of a golden case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "reason")]
pub enum Outcome {
    /// Every tensor was compared and lies within its tolerance, but for raw inputs that this build cannot read.
    Passed,
    /// At least one comparison failed, or the case could not be run.
    Failed(String),
    /// The case is of no known kind.
    NotCovered(String),
    /// The case belongs to a part that the checkpoint does not have.
    Absent(String),
}
