use serde::{Deserialize, Serialize};

use super::augment::AugmentSettings;
use crate::lora::Adapters;
use crate::loss::ClipRange;
use crate::trainer::RunSettings;
use crate::{Error, Result};

/// Adapters that are trained instead of the matrices they belong to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraSettings {
    /// Rank `r` of the factors.
    pub rank: usize,
    /// `α`: the product of the factors counts `α / r`.
    pub alpha: f64,
    /// Patterns of the modules that get an adapter.
    pub targets: String,
}

impl Default for LoraSettings {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, targets: "+thinker.model.layers.*.self_attn.*_proj".into() }
    }
}

/// Settings of supervised fine-tuning of the thinker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftSettings {
    /// Patterns of the trained parameters; ignored with adapters.
    pub train: String,
    /// Weight of the balancing loss of the routers.
    pub balance: f64,
    /// Adapters; without them, parameters are trained in full.
    pub lora: Option<LoraSettings>,
    /// How sounds are changed.
    pub augment: AugmentSettings,
    /// Settings of the run.
    pub run: RunSettings,
}

impl Default for SftSettings {
    fn default() -> Self {
        Self {
            train: "+thinker.model.* +thinker.lm_head.*".into(),
            balance: 0.001,
            lora: None,
            augment: AugmentSettings::default(),
            run: RunSettings::default(),
        }
    }
}

/// Settings of the talker's stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TalkerSettings {
    /// Patterns of the trained parameters; with adapters, only these and the new speaker's row are trained.
    pub train: String,
    /// Weight of the residual codes' loss.
    pub residual: f64,
    /// Weight of the balancing loss of the routers.
    pub balance: f64,
    /// Name of a new speaker, whose row of the codec embedding is trained.
    pub new_speaker: Option<String>,
    /// Adapters; without them, parameters are trained in full.
    pub lora: Option<LoraSettings>,
    /// Settings of the run.
    pub run: RunSettings,
}

impl Default for TalkerSettings {
    fn default() -> Self {
        Self {
            train: "+talker.*".into(),
            residual: 1.0,
            balance: 0.001,
            new_speaker: None,
            lora: None,
            run: RunSettings { rate: 2e-5, ..RunSettings::default() },
        }
    }
}

/// Settings of preference optimisation of the talker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpoSettings {
    /// Patterns of the trained parameters.
    pub train: String,
    /// How strongly the talker of the start holds.
    pub beta: f64,
    /// Probability that a preference was noted the wrong way round.
    pub label_smoothing: f64,
    /// Whether only first codes and end codes count.
    pub first_code_only: bool,
    /// Whether the log-probability of a speech is divided by its rows.
    pub length_normalised: bool,
    /// Weight of the chosen speeches' own log-probability.
    pub chosen: f64,
    /// Settings of the run.
    pub run: RunSettings,
}

impl Default for DpoSettings {
    fn default() -> Self {
        Self {
            train: "+talker.*".into(),
            beta: 0.1,
            label_smoothing: 0.0,
            first_code_only: false,
            length_normalised: false,
            chosen: 0.0,
            run: RunSettings { rate: 5e-6, ..RunSettings::default() },
        }
    }
}

/// Settings of group sequence policy optimisation of the thinker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GspoSettings {
    /// Patterns of the trained parameters.
    pub train: String,
    /// Prompts of one round.
    pub prompts: usize,
    /// Answers to each prompt.
    pub group: usize,
    /// Steps that the answers of a round are split over.
    pub steps_per_round: usize,
    /// Temperature of the answers.
    pub temperature: f32,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// How far a sequence's probability may move before it is left out.
    pub clip_range: ClipRange,
    /// Whether each token has an advantage of its own (GSPO-token); with one for each answer, nothing changes.
    pub per_token: bool,
    /// Weight of the divergence from the thinker of the start.
    pub divergence: f64,
    /// Settings of the run.
    pub run: RunSettings,
}

impl Default for GspoSettings {
    fn default() -> Self {
        Self {
            train: "+thinker.model.* +thinker.lm_head.*".into(),
            prompts: 16,
            group: 8,
            steps_per_round: 4,
            temperature: 1.0,
            max_new_tokens: 1024,
            clip_range: ClipRange::default(),
            per_token: false,
            divergence: 0.0,
            run: RunSettings { rate: 1e-6, ..RunSettings::default() },
        }
    }
}

impl GspoSettings {
    /// Checks the settings that are its own.
    ///
    /// # Errors
    /// [`Error::Option`] naming a setting without sense.
    pub fn validate(&self) -> Result<()> {
        at_least(&[
            ("prompts", self.prompts, 1),
            ("group", self.group, 2),
            ("steps_per_round", self.steps_per_round, 1),
            ("max_new_tokens", self.max_new_tokens, 1),
        ])?;
        positive("temperature", f64::from(self.temperature))
    }
}

/// Checks sizes: name, size, least.
pub(super) fn at_least(sizes: &[(&'static str, usize, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size, least)| size < least) {
        Some((name, size, least)) => Err(Error::Option { name, reason: format!("{size}, expected {least} or more") }),
        None => Ok(()),
    }
}

/// Checks that a number is above 0.
pub(super) fn positive(name: &'static str, value: f64) -> Result<()> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(Error::Option { name, reason: format!("{value}, expected a number above 0") }),
    }
}

impl LoraSettings {
    /// The size of the adapters.
    pub fn adapters(&self) -> Adapters {
        Adapters { rank: self.rank, alpha: self.alpha }
    }

    /// Adapters of the talker's attention.
    pub fn talker() -> Self {
        Self { targets: "+talker.model.layers.*.self_attn.*_proj".into(), ..Self::default() }
    }
}
