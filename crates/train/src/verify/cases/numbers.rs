//! Numbers that need no model: schedule, mixture, average of weights, GSPO and DPO.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use eval::normalise;
use eval::wer::{Edits, corpus};
use serde_json::Value;

use super::super::compare::{Checks, scalar};
use super::super::golden::{damaged, read};
use super::super::model::Model;
use crate::loss::{ClipRange, DpoOptions, Preference, advantages, dpo, gspo, sequence_ratios};
use crate::optim::{Ema, Schedule, ScheduleKind};
use crate::{Error, Mixture, Result};

/// A way of writing a text for comparison.
type Normaliser = fn(&str) -> String;

/// The normalisers by their names in the golden file.
const NORMALISERS: [(&str, Normaliser); 3] =
    [("english", normalise::english), ("basic", normalise::basic), ("characters", normalise::characters)];

/// Name of the file of numbers that need no model.
pub(super) const NUMBERS: &str = "numbers";

/// Relative rounding of f64.
const F64: f64 = 1e-12;

pub(super) fn run(model: &Model, checks: &mut Checks) -> Result<()> {
    let path = model.golden.join(format!("{NUMBERS}.json"));
    let json: Value = serde_json::from_slice(&read(&path)?).map_err(|error| damaged(&path, error))?;
    let numbers = Numbers { json, path: &path, device: &model.device };
    numbers.learning_rate(checks)?;
    numbers.mixture(checks, "mixture_unit")?;
    numbers.mixture(checks, "mixture_tokens")?;
    numbers.ema(checks)?;
    numbers.gspo(checks)?;
    numbers.dpo(checks)?;
    numbers.wer(checks)?;
    numbers.unknown(checks);
    Ok(())
}

/// The sections that are recomputed here.
const SECTIONS: [&str; 7] = ["learning_rate", "mixture_unit", "mixture_tokens", "ema", "gspo", "dpo", "wer"];
/// Sections that are not recomputed: bounds for a random sampler, which this crate does not have.
const UNUSED: [&str; 1] = ["mixture_random_bounds"];

struct Numbers<'a> {
    json: Value,
    path: &'a std::path::Path,
    device: &'a Device,
}

impl Numbers<'_> {
    fn lacks(&self, what: &str) -> Error {
        damaged(self.path, format!("`{what}` is missing or has another form than expected"))
    }

    fn list(&self, at: &Value, key: &str) -> Result<Vec<f64>> {
        at[key].as_array().and_then(|all| all.iter().map(Value::as_f64).collect()).ok_or_else(|| self.lacks(key))
    }

    fn number(&self, at: &Value, key: &str) -> Result<f64> {
        at[key].as_f64().ok_or_else(|| self.lacks(key))
    }

    fn all<'a>(&self, at: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
        at[key].as_array().ok_or_else(|| self.lacks(key))
    }

    fn learning_rate(&self, checks: &mut Checks) -> Result<()> {
        let stored = &self.json["learning_rate"];
        let steps = self.list(stored, "steps")?;
        let size = |key| self.number(stored, key).map(|number| number as usize);
        for (kind, name) in
            [(ScheduleKind::Cosine, "cosine"), (ScheduleKind::Linear, "linear"), (ScheduleKind::Constant, "constant")]
        {
            let (peak, lowest) = (self.number(stored, "peak")?, self.number(stored, "low")?);
            let schedule = Schedule { kind, peak, lowest, warm_up: size("warm_up")?, total: size("total")? };
            let found: Vec<f64> = steps.iter().map(|step| schedule.rate(*step as usize)).collect();
            checks.list(&format!("learning_rate {name}"), &found, &self.list(stored, name)?, F64 * peak);
        }
        Ok(())
    }

    fn mixture(&self, checks: &mut Checks, section: &str) -> Result<()> {
        let stored = &self.json[section];
        let picks = self.list(stored, "picks")?;
        let lengths = match stored["sample_lengths"].as_array() {
            Some(sources) => {
                sources.iter().map(|source| self.list(&serde_json::json!({ "it": source }), "it")).collect()
            }
            None => Ok(vec![vec![1.0]; self.list(stored, "weights")?.len()]),
        };
        let lengths: Vec<Vec<f64>> = lengths?;
        let mut mixture = Mixture::new(&self.list(stored, "weights")?)?;
        let mut samples = vec![0; lengths.len()];
        let found = picks.iter().map(|_| {
            let source = mixture.next_source();
            mixture.count(source, lengths[source][samples[source] % lengths[source].len()] as usize);
            samples[source] += 1;
            source as f64
        });
        let found: Vec<f64> = found.collect();
        checks.list(&format!("{section} picks"), &found, &picks, 0.0);
        checks.list(&format!("{section} tokens"), mixture.tokens(), &self.list(stored, "tokens")?, 0.0);
        Ok(())
    }

    fn ema(&self, checks: &mut Checks) -> Result<()> {
        let stored = self.list(&self.json["ema"], "values")?;
        let one = |value: f32| BTreeMap::from([(String::new(), Tensor::<1>::from_floats([value], self.device))]);
        let mut ema = Ema::new(one(0.0));
        let found = (1..=stored.len()).map(|step| {
            ema.update(one((step as f32).sin()));
            ema.values().values().flat_map(scalar).sum()
        });
        // Weights are f32.
        checks.list("ema", &found.collect::<Vec<f64>>(), &stored, 1e-6);
        Ok(())
    }

    fn gspo(&self, checks: &mut Checks) -> Result<()> {
        let stored = &self.json["gspo"];
        for case in self.all(stored, "advantages")? {
            let expected = self.list(case, "advantage")?;
            checks.list("advantages", &advantages(&self.list(case, "rewards")?), &expected, 1e-9);
        }
        for case in self.all(stored, "sequence_ratio")? {
            let floats =
                |key| Ok::<_, Error>(self.list(case, key)?.into_iter().map(|v| v as f32).collect::<Vec<f32>>());
            let new = Tensor::<1>::from_floats(floats("new")?.as_slice(), self.device);
            let ratio = scalar(&sequence_ratios(&[new], &[floats("old")?]));
            let expected = self.number(case, "ratio")?;
            checks.list("sequence_ratio", &ratio, &[expected], 1e-6 * expected.max(1.0));
        }
        for case in self.all(stored, "terms")? {
            let (ratio, advantage) = (self.number(case, "ratio")?, self.number(case, "advantage")?);
            let ratio = Tensor::<1>::from_floats([ratio as f32], &self.device.clone().autodiff()).require_grad();
            let term = gspo(ratio.clone(), &[advantage], ClipRange::default());
            checks.list("terms", &scalar(&term), &[self.number(case, "term")?], 1e-6);
            let gradient = ratio.grad(&term.backward()).map_or(0.0, |gradient| scalar(&gradient)[0]);
            let flows = case["gradient_flows"].as_bool().ok_or_else(|| self.lacks("gradient_flows"))?;
            let expected = if flows { -advantage } else { 0.0 };
            checks.compare("terms, their gradients", (gradient - expected).abs(), 1e-6);
        }
        Ok(())
    }

    fn dpo(&self, checks: &mut Checks) -> Result<()> {
        for case in self.all(&self.json, "dpo")? {
            let number = |key| self.number(case, key);
            let one = |value: f64| Tensor::<1>::from_floats([value as f32], self.device);
            let pair = Preference { chosen: one(number("chosen")?), rejected: one(number("rejected")?) };
            let margin = pair.margin(&[number("chosen_reference")?, number("rejected_reference")?]);
            let beta = number("beta")?;
            let loss = scalar(&dpo(margin.clone(), DpoOptions { beta, ..DpoOptions::default() }));
            let expected = number("loss")?;
            checks.list("dpo loss", &loss, &[expected], 2e-6 * expected.max(1.0));
            let reward = number("reward_chosen")? - number("reward_rejected")?;
            checks.list("dpo rewards", &scalar(&(margin * beta)), &[reward], 2e-6 * reward.abs().max(1.0));
        }
        Ok(())
    }

    fn wer(&self, checks: &mut Checks) -> Result<()> {
        let stored = &self.json["wer"];
        let mut english = Vec::new();
        for case in self.all(stored, "cases")? {
            let text = |at: &Value, key: &str| at[key].as_str().map(str::to_owned).ok_or_else(|| self.lacks(key));
            let pair = [text(case, "reference")?, text(case, "hypothesis")?];
            for (name, normaliser) in NORMALISERS {
                let Some(expected) = case.get(name) else { continue };
                let [reference, hypothesis] = [&pair[0], &pair[1]].map(|text| normaliser(text));
                let same = reference == text(expected, "reference")? && hypothesis == text(expected, "hypothesis")?;
                checks.compare(format!("wer normalised {name} {:?}", pair[0]), f64::from(!same), 0.0);
                let edits = Edits::words(&reference, &hypothesis);
                // Several alignments may be optimal; the sum of edits is the same in all of them.
                let errors = ["substitutions", "deletions", "insertions"].map(|kind| self.number(expected, kind));
                let errors = errors.into_iter().sum::<Result<f64>>()?;
                checks.list("wer edits", &[edits.errors() as f64], &[errors], 0.0);
                if name == "english" && edits.reference_words() > 0 {
                    english.push(edits);
                }
            }
        }
        let all = corpus(english);
        let expected = &stored["corpus_english"];
        checks.list("wer words", &[all.reference_words() as f64], &[self.number(expected, "words")?], 0.0);
        checks.list("wer corpus", &[all.rate().unwrap_or(f64::NAN)], &[self.number(expected, "wer")?], F64);
        Ok(())
    }

    /// Sections that nothing here recomputes are not covered.
    fn unknown(&self, checks: &mut Checks) {
        let sections = self.json.as_object().into_iter().flat_map(|all| all.keys());
        for section in sections.filter(|name| !SECTIONS.contains(&name.as_str()) && !UNUSED.contains(&name.as_str())) {
            checks.compare(format!("{section}, which is not computed"), f64::INFINITY, 0.0);
        }
    }
}
