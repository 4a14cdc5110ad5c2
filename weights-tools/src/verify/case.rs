use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Int, Tensor, TensorData};
use omni_core::{Error, Result};
use serde::Serialize;

use super::CaseReport;
use super::golden::{Golden, GoldenTensor, Values};

/// One comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// The golden tensor, or the part of it.
    pub tensor: String,
    /// Largest absolute difference; `None` if the shapes differ or a value is no number.
    pub max_abs_error: Option<f64>,
    /// Largest difference allowed; 0 for exact.
    pub tolerance: f64,
    /// The verdict.
    pub passed: bool,
    /// What is wrong beyond numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "reason")]
pub enum Outcome {
    /// Every tensor was compared and lies within its tolerance.
    Passed,
    /// At least one comparison failed, or the case could not be run.
    Failed(String),
    /// The case is of no known kind.
    NotCovered(String),
    /// The case belongs to a part that the checkpoint does not have.
    Absent(String),
}

/// Hidden states, logits and samples.
pub(crate) const STATES: f64 = 1e-4;
/// Values that are computed in one or two steps from the inputs.
pub(crate) const NEAR: f64 = 2e-5;
/// Large values are allowed the relative error of f32 sums instead, each by its own size.
const RELATIVE: f64 = 4e-6;

/// A case in work: hands out inputs, takes results, and keeps account of what was touched.
pub(crate) struct Case {
    name: String,
    tensors: BTreeMap<String, GoldenTensor>,
    json: serde_json::Value,
    touched: BTreeSet<String>,
    checks: Vec<Check>,
    slack: f64,
}

impl Case {
    pub(crate) fn new(name: &str, golden: Golden, slack: f64) -> Self {
        let (tensors, json) = match golden {
            Golden::Tensors(tensors) => (tensors, serde_json::Value::Null),
            Golden::Json(json) => (BTreeMap::new(), json),
        };
        let (touched, checks) = Default::default();
        Self { name: name.to_owned(), tensors, json, touched, checks, slack }
    }

    /// Runs the case; tensors that nobody touched count as failures.
    pub(crate) fn run(mut self, runner: impl FnOnce(&mut Case) -> Result<()>) -> CaseReport {
        // A device that fails panics inside the framework; one bad case must not hide the others.
        let result = catch_unwind(AssertUnwindSafe(|| runner(&mut self)));
        let failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
                Some(format!("panicked: {}", text.unwrap_or("no message")))
            }
        };
        if failure.is_none() {
            let untouched: Vec<String> = self.tensors.keys().filter(|n| !self.touched.contains(*n)).cloned().collect();
            untouched.iter().for_each(|name| self.fail(name, "was not compared".into()));
        }
        let bad = self.checks.iter().filter(|check| !check.passed).count();
        let outcome = match failure {
            Some(reason) => Outcome::Failed(reason),
            None if self.checks.is_empty() => Outcome::Failed("nothing was compared".into()),
            None if bad > 0 => Outcome::Failed(format!("{bad} of {} comparisons", self.checks.len())),
            None => Outcome::Passed,
        };
        CaseReport { case: self.name, outcome, checks: self.checks }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn json(&self) -> &serde_json::Value {
        &self.json
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Golden values and shape of an input.
    fn input(&mut self, name: &str) -> Result<&GoldenTensor> {
        self.touched.insert(name.to_owned());
        let absent = || Error::Request(format!("golden case `{}` has no tensor `{name}`", self.name));
        self.tensors.get(name).ok_or_else(absent)
    }

    pub(crate) fn shape(&mut self, name: &str) -> Result<Vec<usize>> {
        Ok(self.input(name)?.shape.clone())
    }

    pub(crate) fn ints(&mut self, name: &str) -> Result<Vec<i64>> {
        match &self.input(name)?.values {
            Values::Int(values) => Ok(values.clone()),
            Values::Float(_) => Err(Error::Request(format!("golden tensor `{name}` should hold integers"))),
        }
    }

    pub(crate) fn floats(&mut self, name: &str) -> Result<Vec<f32>> {
        match &self.input(name)?.values {
            Values::Float(values) => Ok(values.clone()),
            Values::Int(_) => Err(Error::Request(format!("golden tensor `{name}` should hold floats"))),
        }
    }

    pub(crate) fn float_tensor<const D: usize>(
        &mut self,
        name: &str,
        device: &burn::tensor::Device,
    ) -> Result<Tensor<D>> {
        let (values, shape) = (self.floats(name)?, self.dims::<D>(name)?);
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }

    pub(crate) fn int_tensor<const D: usize>(
        &mut self,
        name: &str,
        device: &burn::tensor::Device,
    ) -> Result<Tensor<D, Int>> {
        let (values, shape) = (self.ints(name)?, self.dims::<D>(name)?);
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }

    pub(crate) fn dims<const D: usize>(&mut self, name: &str) -> Result<[usize; D]> {
        let shape = self.shape(name)?;
        let found = shape.len();
        shape.try_into().map_err(|_| Error::Request(format!("golden tensor `{name}` has {found} axes, expected {D}")))
    }

    /// Compares a tensor, if the case has one of this name.
    pub(crate) fn compare<const D: usize>(&mut self, name: &str, result: Tensor<D>, tolerance: f64) {
        let shape = result.dims().to_vec();
        let values = result.into_data().try_to_vec_as().expect("a float tensor can be read as f32");
        self.compare_values(name, &values, &shape, tolerance);
    }

    /// Compares host values; the golden shape may have further axes of length 1.
    pub(crate) fn compare_values(&mut self, name: &str, values: &[f32], shape: &[usize], tolerance: f64) {
        self.compare_where(name, values, shape, tolerance, |_| true);
    }

    /// As [`Case::compare_values`], only at the elements `wanted` chooses.
    pub(crate) fn compare_where(
        &mut self,
        name: &str,
        values: &[f32],
        shape: &[usize],
        tolerance: f64,
        wanted: impl Fn(usize) -> bool,
    ) {
        let Ok(golden) = self.input_if_there(name) else { return };
        let Values::Float(expected) = golden.values else {
            return self.fail(name, "holds integers where floats were computed".into());
        };
        if let Some(note) = shape_note(shape, &golden.shape) {
            return self.fail(name, note);
        }
        let pairs = values.iter().zip(&expected).enumerate().filter(|(i, _)| wanted(*i));
        let (mut error, mut passed) = (0f64, true);
        let tolerance = self.slack * tolerance;
        for (_, (value, expected)) in pairs {
            let difference = (f64::from(*value) - f64::from(*expected)).abs();
            // A value that is no number must not pass for a small one.
            error = if difference.is_finite() { error.max(difference) } else { f64::INFINITY };
            let relative = if tolerance == 0.0 { 0.0 } else { self.slack * RELATIVE * f64::from(expected.abs()) };
            passed &= difference <= tolerance.max(relative);
        }
        self.checks.push(Check {
            tensor: name.to_owned(),
            max_abs_error: error.is_finite().then_some(error),
            tolerance,
            passed: passed && error.is_finite(),
            note: (!error.is_finite()).then(|| "a value is no number".to_owned()),
        });
    }

    /// Compares integers exactly.
    pub(crate) fn compare_ints(&mut self, name: &str, values: &[i64], shape: &[usize]) {
        let Ok(golden) = self.input_if_there(name) else { return };
        let Values::Int(expected) = golden.values else {
            return self.fail(name, "holds floats where integers were computed".into());
        };
        if let Some(note) = shape_note(shape, &golden.shape) {
            return self.fail(name, note);
        }
        let differ = values.iter().zip(&expected).filter(|(a, b)| a != b);
        let largest = differ.clone().map(|(a, b)| a.abs_diff(*b) as f64).fold(0.0, f64::max);
        let wrong = differ.count();
        self.checks.push(Check {
            tensor: name.to_owned(),
            max_abs_error: Some(largest),
            tolerance: 0.0,
            passed: wrong == 0,
            note: (wrong > 0).then(|| format!("{wrong} of {} values differ", expected.len())),
        });
    }

    /// Records a comparison of something that is no tensor.
    pub(crate) fn compare_text(&mut self, name: &str, found: &str, expected: &str) {
        let passed = found == expected;
        let note = (!passed).then(|| format!("expected {expected:?}, found {found:?}"));
        self.checks.push(Check { tensor: name.to_owned(), max_abs_error: None, tolerance: 0.0, passed, note });
    }

    fn input_if_there(&mut self, name: &str) -> Result<GoldenTensor, ()> {
        if !self.has(name) {
            return Err(());
        }
        self.input(name).cloned().map_err(|_| ())
    }

    pub(crate) fn fail(&mut self, name: &str, note: String) {
        let check =
            Check { tensor: name.to_owned(), max_abs_error: None, tolerance: 0.0, passed: false, note: Some(note) };
        self.checks.push(check);
    }
}

/// Says how shapes differ; axes of length 1 do not count.
fn shape_note(found: &[usize], expected: &[usize]) -> Option<String> {
    let squeezed = |shape: &[usize]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
    let same = squeezed(found) == squeezed(expected);
    (!same).then(|| format!("shape {found:?}, expected {expected:?}"))
}
