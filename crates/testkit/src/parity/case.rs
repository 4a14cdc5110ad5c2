use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Tensor, TensorData};
use omni_core::{Error, Result};

use super::golden::{Golden, GoldenTensor, Values};
use super::limits::Limits;
use super::report::{CaseReport, Check, Outcome};

/// Tolerance of hidden states, logits and samples.
pub(crate) const STATES: f64 = 1e-4;
/// Tolerance of values that are one or two steps away from the inputs.
pub(crate) const NEAR: f64 = 2e-5;
/// Features that the media path computes in f32, whatever the model's number type.
const INPUTS: &str = "input_features";
/// Relative error of f32 sums that large values are allowed instead, each by its own size.
const RELATIVE: f64 = 4e-6;

/// A golden case while it runs: hands out inputs, takes results, and records which tensors were used.
pub(crate) struct Case {
    name: String,
    tensors: BTreeMap<String, GoldenTensor>,
    json: serde_json::Value,
    touched: BTreeSet<String>,
    checks: Vec<Check>,
    limits: Limits,
}

impl Case {
    pub(crate) fn new(name: &str, golden: Golden, limits: Limits) -> Self {
        let (tensors, json) = match golden {
            Golden::Tensors(tensors) => (tensors, serde_json::Value::Null),
            Golden::Json(json) => (BTreeMap::new(), json),
        };
        let (touched, checks) = Default::default();
        Self { name: name.to_owned(), tensors, json, touched, checks, limits }
    }

    /// Runs the case; tensors that were not used count as failures.
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

    /// Leaves inputs uncompared that crates make which are not built.
    #[cfg(not(feature = "parity-omni"))]
    pub(crate) fn leave(&mut self, names: &[&str]) {
        self.touched.extend(names.iter().map(|name| (*name).to_owned()));
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

    pub(crate) fn dims<const D: usize>(&mut self, name: &str) -> Result<[usize; D]> {
        let shape = self.shape(name)?;
        let found = shape.len();
        shape.try_into().map_err(|_| Error::Request(format!("golden tensor `{name}` has {found} axes, expected {D}")))
    }

    /// Compares a tensor, if the case has one of this name.
    pub(crate) fn compare<const D: usize>(&mut self, name: &str, result: Tensor<D>, tolerance: f64) {
        let shape = result.dims().to_vec();
        let values = nn::to_f32_vec(&result);
        self.compare_values(name, &values, &shape, tolerance);
    }

    /// Compares host values; the golden shape may have further axes of length 1.
    pub(crate) fn compare_values(&mut self, name: &str, values: &[f32], shape: &[usize], tolerance: f64) {
        self.compare_where(name, values, shape, tolerance, |_| true);
    }

    /// Compares values at the elements that `wanted` chooses.
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
        let reference = match self.limits.of_tensor(&self.name, name).filter(|_| tolerance > 0.0 && name != INPUTS) {
            Some(Err(note)) => return self.fail(name, note),
            Some(Ok(error)) => Some(error),
            None => None,
        };
        let tolerance = reference.map_or(0.0, |error| error.max_abs).max(self.limits.slack() * tolerance);
        let pairs = values.iter().zip(&expected).enumerate().filter(|(i, _)| wanted(*i));
        let (mut error, mut squares, mut count, mut passed) = (0f64, 0f64, 0, true);
        for (_, (value, expected)) in pairs {
            let difference = (f64::from(*value) - f64::from(*expected)).abs();
            // A value that is not finite must not pass for a small one.
            error = if difference.is_finite() { error.max(difference) } else { f64::INFINITY };
            let relative =
                if tolerance == 0.0 { 0.0 } else { self.limits.slack() * RELATIVE * f64::from(expected.abs()) };
            passed &= difference <= tolerance.max(relative);
            squares += difference * difference;
            count += 1;
        }
        let mut note = (!error.is_finite()).then(|| "a value is not a finite number".to_owned());
        if let Some(reference) = reference {
            // One value may be far off where a row was routed to another expert; the RMS over all of them may not.
            let (rms, allowed) = ((squares / f64::from(count.max(1))).sqrt(), reference.rms.max(STATES));
            let near = rms <= allowed;
            passed &= near;
            note = note.or_else(|| (!near).then(|| format!("root mean square {rms:.1e}, allowed {allowed:.1e}")));
        }
        self.checks.push(Check {
            tensor: name.to_owned(),
            max_abs_error: error.is_finite().then_some(error),
            tolerance,
            passed: passed && error.is_finite(),
            note,
        });
    }

    /// Compares greedy choices `[steps]` with the stored ones; in other types only those where the reference's margin is larger than its
    /// own error. `choice` names them in the reference's errors, `first` is the number of choices before them.
    pub(crate) fn compare_choices(&mut self, name: &str, choice: &str, first: usize, found: &[u32], stored: &[u32]) {
        let decided = |step: &usize| self.limits.decides(&self.name, choice, first + step);
        let differs = |step: &usize| found.get(*step) != stored.get(*step);
        let steps = found.len().max(stored.len());
        let (wrong, open) =
            ((0..steps).filter(differs).filter(decided).count(), (0..steps).filter(|s| !decided(s)).count());
        let mut notes = Vec::new();
        notes.extend((wrong > 0).then(|| format!("{wrong} of {steps} choices differ")));
        notes.extend((open > 0).then(|| format!("{open} of {steps} are undecided")));
        let note = (!notes.is_empty()).then(|| notes.join(", "));
        self.checks.push(Check {
            tensor: name.to_owned(),
            max_abs_error: Some(wrong as f64),
            tolerance: 0.0,
            passed: wrong == 0,
            note,
        });
    }

    /// Compares the experts `[rows, top_k]` of several layers: in f32 exactly, else within the number of rows that may be
    /// routed elsewhere. `parts` name them in the reference's errors.
    pub(crate) fn compare_routing(&mut self, layers: &[(String, Vec<u32>)], top_k: usize, parts: &[&str]) {
        if !self.limits.is_rounded() {
            for (name, index) in layers {
                let values: Vec<i64> = index.iter().map(|id| i64::from(*id)).collect();
                self.compare_ints(name, &values, &[index.len() / top_k, top_k]);
            }
            return;
        }
        let (mut flips, mut rows) = (0, 0);
        for (name, index) in layers.iter().filter(|(name, _)| self.has(name)).cloned().collect::<Vec<_>>() {
            let Ok(stored) = self.ints(&name) else { continue };
            let set = |ids: Vec<i64>| ids.into_iter().collect::<BTreeSet<_>>();
            let found = index.chunks(top_k).map(|row| set(row.iter().map(|id| i64::from(*id)).collect()));
            flips += found.zip(stored.chunks(top_k)).filter(|(found, row)| *found != set(row.to_vec())).count();
            rows += stored.len() / top_k;
        }
        let allowed = self.limits.flips(&self.name, parts);
        if rows > 0 {
            self.checks.push(Check {
                tensor: format!("{} routing", parts[0]),
                max_abs_error: Some(flips as f64),
                tolerance: allowed as f64,
                passed: flips <= allowed,
                note: Some(format!("{flips} of {rows} rows and layers go to other experts")),
            });
        }
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

    /// Records a comparison of text.
    pub(crate) fn compare_text(&mut self, name: &str, found: &str, expected: &str) {
        let passed = found == expected;
        let note = (!passed).then(|| format!("expected {expected:?}, found {found:?}"));
        self.checks.push(Check { tensor: name.to_owned(), max_abs_error: None, tolerance: 0.0, passed, note });
    }

    /// The name of a row's text in the reference's errors.
    pub(crate) fn name_of_text(row: usize, rows: usize) -> String {
        if rows == 1 { "text".into() } else { format!("text_{row}") }
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

/// Describes how shapes differ; axes of length 1 do not count.
fn shape_note(found: &[usize], expected: &[usize]) -> Option<String> {
    let squeezed = |shape: &[usize]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
    let same = squeezed(found) == squeezed(expected);
    (!same).then(|| format!("shape {found:?}, expected {expected:?}"))
}
