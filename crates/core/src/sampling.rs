use std::collections::BTreeMap;

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How a stage picks its next id from logits.
///
/// The order is the reference's: repetition penalty, suppression, then, when sampling, temperature, top-k, top-p, min-p. Presence and
/// frequency penalty and bias come after the repetition penalty; all of these stay on in greedy mode.
///
/// ```
/// # use qwen3_omni_core::SamplingOptions;
/// let warm = SamplingOptions::default().sampled().temperature(0.7).top_p(0.9);
/// assert!(!warm.greedy && warm.top_k == 0);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
#[non_exhaustive]
pub struct SamplingOptions {
    /// Whether the id of the highest logit is taken instead of a sampled one.
    pub greedy: bool,
    /// Logits are divided by this before sampling; 1 leaves them unchanged.
    pub temperature: f32,
    /// Sample among this many best ids; 0 switches the limit off.
    pub top_k: usize,
    /// Sample among the smallest set of best ids whose total probability reaches this; 1 switches the limit off.
    pub top_p: f32,
    /// Logits of ids already produced are divided by this if positive, multiplied if negative; 1 leaves them unchanged. For the
    /// thinker, the prompt's ids count as produced.
    pub repetition_penalty: f32,
    /// Sample only ids whose probability is at least this fraction of the highest; 0 disables the limit.
    pub min_p: f32,
    /// Subtracted once from the logit of every id generated so far; ids of the prompt do not count. 0 disables it.
    pub presence_penalty: f32,
    /// Subtracted from the logit of an id once per occurrence in what was generated so far. 0 disables it.
    pub frequency_penalty: f32,
    /// Added to the logits of these ids.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Seed of the sampling: the same seed, options and input give the same ids on the same device.
    pub seed: u64,
}

crate::setters! { SamplingOptions {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    repetition_penalty: f32,
    min_p: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    logit_bias: impl IntoIterator<Item = (u32, f32)> => logit_bias.into_iter().collect(),
    seed: u64,
} without greedy }

impl Default for SamplingOptions {
    /// Greedy choice.
    fn default() -> Self {
        Self::greedy()
    }
}

impl SamplingOptions {
    /// Greedy choice: always the id of the highest logit.
    pub fn greedy() -> Self {
        Self {
            greedy: true,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
        }
    }

    /// Sets [`SamplingOptions::greedy`](field@Self::greedy) to false: ids are sampled.
    pub fn sampled(mut self) -> Self {
        self.greedy = false;
        self
    }

    /// The talker's released settings.
    pub fn talker() -> Self {
        Self { greedy: false, temperature: 0.9, top_k: 50, repetition_penalty: 1.05, ..Self::greedy() }
    }

    /// The code predictor's settings in the reference.
    pub fn code_predictor() -> Self {
        Self { greedy: false, top_k: 50, top_p: 0.8, ..Self::greedy() }
    }

    /// Checks that the values are usable for sampling; `stage` names their owner in the message.
    ///
    /// # Errors
    /// [`Error::Request`] naming the option, its value and the range it must lie in.
    pub fn validate(&self, stage: &str) -> Result<()> {
        let refuse = |name: &str, value: f32, expected: &str| {
            Err(Error::Request(format!("{stage} sampling: {name} is {value}, expected {expected}")))
        };
        // Beyond these bounds f32 logits overflow, or their differences vanish.
        if !(1e-3..=100.0).contains(&self.temperature) {
            return refuse("temperature", self.temperature, "0.001 to 100 (use greedy for no randomness)");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "above 0 and at most 1");
        }
        if !(0.01..=100.0).contains(&self.repetition_penalty) {
            return refuse("repetition_penalty", self.repetition_penalty, "0.01 to 100 (1 leaves the scores)");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("min_p", self.min_p, "0 to 1 (0 switches it off)");
        }
        for (name, penalty) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            if !(-100.0..=100.0).contains(&penalty) {
                return refuse(name, penalty, "-100 to 100 (0 switches it off)");
            }
        }
        match self.logit_bias.values().find(|bias| !(-1e4..=1e4).contains(*bias)) {
            Some(bias) => refuse("logit_bias", *bias, "-10000 to 10000"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_values_are_refused_by_name() {
        let base = SamplingOptions::talker();
        let cases = [
            (SamplingOptions { temperature: 0.0, ..base.clone() }, "temperature"),
            (SamplingOptions { temperature: f32::NAN, ..base.clone() }, "temperature"),
            (SamplingOptions { temperature: -1.0, ..base.clone() }, "temperature"),
            (SamplingOptions { temperature: 1e30, ..base.clone() }, "temperature"),
            (SamplingOptions { top_p: 0.0, ..base.clone() }, "top_p"),
            (SamplingOptions { top_p: 1.5, ..base.clone() }, "top_p"),
            (SamplingOptions { top_p: f32::NAN, ..base.clone() }, "top_p"),
            (SamplingOptions { repetition_penalty: 0.0, ..base.clone() }, "repetition_penalty"),
            (SamplingOptions { min_p: 1.5, ..base.clone() }, "min_p"),
            (SamplingOptions { presence_penalty: f32::NAN, ..base.clone() }, "presence_penalty"),
            (SamplingOptions { frequency_penalty: 1e9, ..base.clone() }, "frequency_penalty"),
            (SamplingOptions { logit_bias: [(3, f32::INFINITY)].into(), ..base.clone() }, "logit_bias"),
            (SamplingOptions { repetition_penalty: f32::INFINITY, ..base.clone() }, "repetition_penalty"),
        ];
        for (options, name) in cases {
            let message = options.validate("talker").unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("talker"), "{message}");
        }
        for good in [base, SamplingOptions::greedy(), SamplingOptions::code_predictor()] {
            good.validate("talker").expect("the defaults are valid");
        }
    }
}
