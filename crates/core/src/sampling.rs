use crate::{Error, Result};

/// How a stage picks its next id from logits.
///
/// The order is the reference's: repetition penalty, suppression, then, when sampling, temperature, top-k, top-p.
/// The repetition penalty stays on in greedy mode.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// Whether the id of the highest logit is taken instead of a sampled one.
    pub greedy: bool,
    /// Logits are divided by this before sampling; 1 leaves them unchanged.
    pub temperature: f32,
    /// Sample among this many best ids; 0 switches the limit off.
    pub top_k: usize,
    /// Sample among the smallest set of best ids whose total probability reaches this; 1 switches the limit off.
    pub top_p: f32,
    /// Logits of ids already produced are divided by this if positive, multiplied if negative; 1 leaves them unchanged.
    pub repetition_penalty: f32,
    /// Seed of the sampling: the same seed, options and input give the same ids on the same device.
    pub seed: u64,
}

impl SamplingOptions {
    /// Greedy choice: always the id of the highest logit.
    pub fn greedy() -> Self {
        Self { greedy: true, temperature: 1.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 0 }
    }

    /// The talker's released settings.
    pub fn talker() -> Self {
        Self { greedy: false, temperature: 0.9, top_k: 50, top_p: 1.0, repetition_penalty: 1.05, seed: 0 }
    }

    /// The code predictor's settings in the reference.
    pub fn code_predictor() -> Self {
        Self { greedy: false, temperature: 1.0, top_k: 50, top_p: 0.8, repetition_penalty: 1.0, seed: 0 }
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
        Ok(())
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
