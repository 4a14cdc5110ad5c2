//! Loss, gradients and three optimiser steps of one case.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Tensor;
use serde_json::Value;

use super::compare::{Checks, length, signed_sum};
use super::golden::Golden;
use crate::optim::{AdamW, AdamWConfig};
use crate::{Gradients, ParamNames, Patterns, Result};

/// A loss and the values it is made of, by their names in the golden file.
pub(super) struct LossParts {
    pub(super) loss: Tensor<1>,
    pub(super) parts: BTreeMap<&'static str, Vec<f64>>,
}

/// How far a case may be from its stored values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Largest L2 distance of a gradient from the stored one, relative to the stored one's L2 norm.
    pub(super) gradient: f64,
    /// Largest relative difference of a loss, or of a gradient norm, after the first step.
    pub(super) later_loss: f64,
    /// Largest difference of a projection of the parameters, in units of learning rate · steps · √elements.
    pub(super) after: f64,
}

impl Limits {
    pub(super) const USUAL: Self = Self { gradient: 2e-4, later_loss: 1e-4, after: 0.02 };
}

/// One case: a model, its names, and which of its parameters are trained.
pub(super) struct Trained<'a, M> {
    pub(super) golden: &'a Golden,
    pub(super) names: &'a ParamNames,
    pub(super) model: M,
    pub(super) patterns: Patterns,
    pub(super) limits: Limits,
    /// Parts that are compared elsewhere, or not at all.
    pub(super) ignored: &'static [&'static str],
}

impl<M: Module> Trained<'_, M> {
    /// Compares loss, parts, gradients, and the losses, norms and parameters of three steps on the same batch.
    pub(super) fn run(self, checks: &mut Checks, loss: &mut dyn FnMut(&M) -> Result<LossParts>) -> Result<()> {
        let golden = self.golden;
        let (mut model, trained) = self.names.freeze(self.model, &self.patterns)?;
        compare_names(checks, golden, &trained);
        let (losses, norms) = (golden.numbers("losses")?, golden.numbers("grad_norm")?);
        let settings = &golden.json["adamw"];
        let setting = |key: &str| settings[key].as_f64().ok_or_else(|| golden.lacks(key));
        let (rate, clip) = (setting("lr")?, setting("clip")?);
        let beta = |index: usize| settings["betas"][index].as_f64().ok_or_else(|| golden.lacks("betas"));
        let mut optimizer = AdamW::new(AdamWConfig {
            beta1: beta(0)?,
            beta2: beta(1)?,
            epsilon: setting("eps")?,
            weight_decay: setting("weight_decay")?,
            ..AdamWConfig::default()
        });
        for (step, expected) in norms.iter().enumerate() {
            let LossParts { loss: value, parts } = loss(&model)?;
            let found = f64::from(value.clone().into_scalar::<f32>());
            if step == 0 {
                checks.value("loss", found, golden.number("loss")?);
                compare_parts(checks, golden, &parts, self.ignored)?;
            } else {
                compare_later(checks, step, found, losses[step], self.limits);
            }
            let mut gradients = self.names.gradients(&model, &mut value.backward());
            if step == 0 {
                compare_gradients(checks, golden, &gradients, self.limits)?;
            }
            let norm = gradients.clip(clip);
            // After a step a norm can be as far from its stored value as the loss.
            let limit = if step == 0 { 1e-4 } else { self.limits.later_loss };
            checks.compare(format!("norm of step {}", step + 1), (norm - expected).abs(), limit * expected + 1e-7);
            model = optimizer.step(model, self.names, gradients, rate);
        }
        let found = f64::from(loss(&model)?.loss.into_scalar::<f32>());
        compare_later(checks, norms.len(), found, losses[norms.len()], self.limits);
        compare_after(checks, golden, &self.names.values(&model), rate * norms.len() as f64 * self.limits.after)
    }
}

fn compare_later(checks: &mut Checks, step: usize, found: f64, expected: f64, limits: Limits) {
    let size = expected.abs().max(1e-2);
    checks.compare(format!("later loss after step {step}"), (found - expected).abs(), limits.later_loss * size);
}

/// Compares the names of the trained parameters with those that have a stored gradient.
fn compare_names(checks: &mut Checks, golden: &Golden, trained: &[String]) {
    let expected: Vec<&String> = golden.json["grad"].as_object().into_iter().flat_map(|all| all.keys()).collect();
    let missing = expected.iter().filter(|name| !trained.contains(name)).count();
    let extra = trained.iter().filter(|name| !expected.contains(name)).count();
    checks.compare("names that differ", (missing + extra) as f64, 0.0);
}

fn compare_parts(
    checks: &mut Checks,
    golden: &Golden,
    found: &BTreeMap<&'static str, Vec<f64>>,
    ignored: &[&str],
) -> Result<()> {
    let parts = golden.json["parts"].as_object().ok_or_else(|| golden.lacks("parts"))?;
    for (name, stored) in parts.iter().filter(|(name, _)| !ignored.contains(&name.as_str())) {
        let expected: Vec<f64> = match stored {
            Value::Array(all) => all.iter().filter_map(number).collect(),
            one => number(one).into_iter().collect(),
        };
        let found = found.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        if found.len() != expected.len() {
            checks.compare(format!("part {name}, which is not computed"), f64::INFINITY, 0.0);
            continue;
        }
        for (found, expected) in found.iter().zip(expected) {
            let limit = if name == "ratio" { RATIO } else { 2e-5 * expected.abs().max(1.0) };
            checks.compare(format!("part {name}"), (found - expected).abs(), limit);
        }
    }
    Ok(())
}

/// Limit of a sequence's probability ratio: twice what the reference in f32 is off its own f64 (1.45e-6 where logits are large).
const RATIO: f64 = 3e-6;

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_bool().map(f64::from))
}

/// Whether the gradient of this parameter is 0 in exact arithmetic: a bias of the keys shifts all scores of a softmax alike. What is
/// computed is noise, which Adam turns into full steps.
fn is_noise(name: &str) -> bool {
    name.ends_with(".k_proj.bias")
}

fn compare_gradients(checks: &mut Checks, golden: &Golden, found: &Gradients, limits: Limits) -> Result<()> {
    let stored = golden.json["grad"].as_object().ok_or_else(|| golden.lacks("grad"))?;
    let length_of = |stored: &Value| stored[2].as_f64().unwrap_or(0.0);
    let longest = stored.values().map(length_of).fold(0.0, f64::max);
    for (name, stored) in stored {
        let values = found.0.get(name).cloned().flatten().map(|gradient| nn::to_f32_vec(&gradient));
        let values = values.unwrap_or_default();
        if stored.is_null() {
            let largest = values.iter().fold(0f32, |a, b| a.max(b.abs()));
            checks.compare(format!("gradient {name}, to which no path leads"), f64::from(largest), 0.0);
            continue;
        }
        if is_noise(name) {
            let largest = values.iter().fold(0f32, |a, b| a.max(b.abs()));
            checks.compare(format!("gradient {name}, which is 0"), f64::from(largest), 1e-5);
            continue;
        }
        let size = length_of(stored).max(1e-6 * longest);
        let dot = stored[0].as_f64().ok_or_else(|| golden.lacks(name))?;
        checks.compare(format!("dot {name}"), (signed_sum(name, &values) - dot).abs(), 1e-3 * size);
        let own = length(values.iter().map(|value| f64::from(*value)));
        checks.compare(format!("length {name}"), (own - length_of(stored)).abs(), limits.gradient * size);
        let full = format!("grad.{name}");
        if golden.has(&full) {
            let expected = golden.values(&full)?;
            // An expert that no row chose has no gradient here and zeros there.
            let values = if values.is_empty() { vec![0.0; expected.len()] } else { values };
            let distance = match values.len() == expected.len() {
                true => length(values.iter().zip(expected).map(|(a, b)| f64::from(*a) - b)),
                false => f64::INFINITY,
            };
            checks.compare(format!("gradient {name}"), distance, limits.gradient * size);
        }
    }
    Ok(())
}

/// Compares projections of the parameters after the steps; `unit` is the limit for one element.
fn compare_after(checks: &mut Checks, golden: &Golden, found: &BTreeMap<String, Tensor<1>>, unit: f64) -> Result<()> {
    let stored = golden.json["after"].as_object().ok_or_else(|| golden.lacks("after"))?;
    for (name, stored) in stored.iter().filter(|(name, _)| !is_noise(name)) {
        let dot = stored[0].as_f64().ok_or_else(|| golden.lacks(name))?;
        let values = found.get(name).map(nn::to_f32_vec).unwrap_or_default();
        let limit = unit * (values.len().max(1) as f64).sqrt();
        checks.compare(format!("after {name}"), (signed_sum(name, &values) - dot).abs(), limit);
    }
    Ok(())
}
