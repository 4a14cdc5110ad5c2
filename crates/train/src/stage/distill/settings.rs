use serde::{Deserialize, Serialize};

use super::super::settings::{LoraSettings, at_least, positive};
use crate::loss::DistillLoss;
use crate::trainer::RunSettings;
use crate::{Error, Result};

/// Settings of distillation of the thinker from a teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillSettings {
    /// Patterns of the trained parameters; ignored with adapters.
    pub train: String,
    /// What is measured between student and teacher: `reverse_kl`, `forward_kl`, or `jsd` with its `beta`.
    pub divergence: DistillLoss,
    /// Both logits are divided by it.
    pub temperature: f64,
    /// Weight of the divergence.
    pub kl: f64,
    /// Weight of the cross-entropy of the answers; 0 where the student writes them.
    pub ce: f64,
    /// Only this many ids count, those that the teacher likes best; all if it is not set. Stored logits have the number they were
    /// stored with.
    pub top_k: Option<usize>,
    /// Weight of the balancing loss of the routers.
    pub balance: f64,
    /// How the student answers the prompts itself; without it, the answers are those of the data.
    pub on_policy: Option<OnPolicySettings>,
    /// Adapters; without them, parameters are trained in full.
    pub lora: Option<LoraSettings>,
    /// Settings of the run.
    pub run: RunSettings,
}

/// Settings of answers that the student writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnPolicySettings {
    /// Prompts of one round.
    pub prompts: usize,
    /// Answers to each prompt.
    pub answers: usize,
    /// Steps that the answers of a round are split over.
    pub steps_per_round: usize,
    /// Temperature of the answers.
    pub temperature: f32,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
}

impl Default for OnPolicySettings {
    fn default() -> Self {
        Self { prompts: 32, answers: 1, steps_per_round: 4, temperature: 1.0, max_new_tokens: 1024 }
    }
}

impl Default for DistillSettings {
    fn default() -> Self {
        Self {
            train: "+thinker.model.* +thinker.lm_head.*".into(),
            divergence: DistillLoss::default(),
            temperature: 1.0,
            kl: 1.0,
            ce: 0.0,
            top_k: None,
            balance: 0.001,
            on_policy: None,
            lora: None,
            run: RunSettings::default(),
        }
    }
}

impl DistillSettings {
    /// Checks the settings that are its own.
    ///
    /// # Errors
    /// [`Error::Option`] naming a setting without sense.
    pub fn validate(&self) -> Result<()> {
        positive("temperature", self.temperature)?;
        for (name, weight) in [("kl", self.kl), ("ce", self.ce), ("balance", self.balance)] {
            if !(weight >= 0.0 && weight.is_finite()) {
                return Err(Error::Option { name, reason: format!("{weight}, expected 0 or more") });
            }
        }
        if let DistillLoss::Jsd { beta } = self.divergence
            && !(beta > 0.0 && beta < 1.0)
        {
            let reason = format!("{beta}, expected a number between 0 and 1, neither of them");
            return Err(Error::Option { name: "divergence.jsd.beta", reason });
        }
        let OnPolicySettings { prompts, answers, steps_per_round, temperature, max_new_tokens } =
            self.on_policy.clone().unwrap_or_default();
        positive("on_policy.temperature", f64::from(temperature))?;
        at_least(&[
            ("top_k", self.top_k.unwrap_or(1), 1),
            ("on_policy.prompts", prompts, 1),
            ("on_policy.answers", answers, 1),
            ("on_policy.steps_per_round", steps_per_round, 1),
            ("on_policy.max_new_tokens", max_new_tokens, 1),
        ])?;
        match self.on_policy.is_some() && self.ce > 0.0 {
            true => {
                let reason = format!("{}, expected 0 with `on_policy`: the answers are the student's own", self.ce);
                Err(Error::Option { name: "ce", reason })
            }
            false => Ok(()),
        }
    }
}
