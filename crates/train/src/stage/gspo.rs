use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use checkpoint::Checkpoint;

use super::adapters::{THINKER, check_trained};
use super::settings::GspoSettings;
use crate::loss::{ClipRange, gspo, gspo_token, k3_divergence, log_probs, sequence_ratios};
use crate::model::{Sample, ThinkerModel};
use crate::trainer::{BatchLoss, Objective, Trainer};
use crate::{Error, ParamNames, Patterns, Result};

/// Group sequence policy optimisation of the thinker: of several answers to one prompt, those with the better rewards become likelier.
#[derive(Debug)]
pub struct Rewarding {
    range: ClipRange,
    per_token: bool,
    divergence: f64,
    /// The thinker as it was at the start, without gradients; only if the divergence from it counts.
    reference: Option<ThinkerModel>,
}

/// An answer that the thinker wrote, with its reward.
#[derive(Debug, Clone)]
pub struct ScoredAnswer {
    /// Prompt and answer; only the answer's tokens have labels.
    pub sample: Sample,
    /// Its reward.
    pub reward: f64,
    /// Its reward compared with those of its group.
    pub advantage: f64,
    /// The advantage of each of its tokens, for [`GspoSettings::per_token`]; empty where each has that of the answer.
    pub token_advantages: Vec<f64>,
    /// Log-probability of each token of the answer when it was written; empty until it is computed.
    pub old: Vec<f32>,
}

/// A batch of answers.
#[derive(Debug, Clone, Default)]
pub struct ScoredAnswers {
    /// The answers.
    pub answers: Vec<ScoredAnswer>,
    /// Where their prompts came from, as `file:line, …`.
    pub origin: String,
    /// What the rewards counted in the round that begins with it, for the log.
    pub counts: BTreeMap<&'static str, f64>,
}

impl Rewarding {
    /// Loads a checkpoint for training the thinker. Returns the trainer before its first step.
    ///
    /// # Errors
    /// The errors of the checkpoint, and [`crate::Error::NothingTrained`] for patterns that match nothing.
    pub fn trainer(directory: &Path, settings: &GspoSettings, device: &Device) -> Result<Trainer<Self>> {
        let (checkpoint, dtype) = (Checkpoint::open(directory)?, settings.run.dtype.into());
        check_trained(&checkpoint, THINKER, &settings.train, None)?;
        let names = ParamNames::new(checkpoint.tensors().keys().cloned());
        let trained: Patterns = settings.train.parse()?;
        let model = ThinkerModel::from_checkpoint(&checkpoint, &device.clone().autodiff(), dtype)?;
        let (model, _) = names.freeze(model, &trained)?;
        let compares = settings.divergence > 0.0;
        let reference = compares.then(|| ThinkerModel::from_checkpoint(&checkpoint, device, dtype)).transpose()?;
        let GspoSettings { clip_range, per_token, divergence, .. } = *settings;
        let objective = Self { range: clip_range, per_token, divergence, reference };
        Ok(Trainer::new(objective, model, names, &settings.run))
    }
}

/// Log-probability of each token of each answer.
fn policy(model: &ThinkerModel, answers: &[ScoredAnswer]) -> Result<Vec<Tensor<1>>> {
    let samples: Vec<Sample> = answers.iter().map(|answer| answer.sample.clone()).collect();
    model.forward(&samples, false)?.of_each().map(|(logits, labels)| log_probs(logits, labels)).collect()
}

/// Notes for each answer the log-probabilities that the model gives its tokens now, before it is trained on them.
///
/// They are not the sampler's: its numerics differ, and the first step must find a ratio of 1.
///
/// # Errors
/// The errors of the model.
pub(super) fn note_policy(model: &ThinkerModel, answers: &mut [ScoredAnswer]) -> Result<()> {
    let found = policy(model, answers)?;
    answers.iter_mut().zip(found).for_each(|(answer, policy)| answer.old = nn::to_f32_vec(&policy));
    Ok(())
}

impl ScoredAnswer {
    /// The advantage of each token.
    fn of_tokens(&self) -> Result<Vec<f64>> {
        let tokens = self.old.len();
        match self.token_advantages.len() {
            0 => Ok(vec![self.advantage; tokens]),
            found if found == tokens => Ok(self.token_advantages.clone()),
            found => Err(Error::Batch(format!("{found} advantages for an answer of {tokens} tokens"))),
        }
    }
}

impl Objective for Rewarding {
    type Model = ThinkerModel;
    type Batch = ScoredAnswers;

    /// Every answer weighs the same, whatever its length.
    fn rows(&self, batch: &ScoredAnswers) -> usize {
        batch.answers.len()
    }

    fn tokens(&self, batch: &ScoredAnswers) -> usize {
        batch.answers.iter().map(|answer| answer.sample.ids.len()).sum()
    }

    fn origin(&self, batch: &ScoredAnswers) -> String {
        batch.origin.clone()
    }

    fn moved(&self, batch: &ScoredAnswers, device: &Device) -> Option<ScoredAnswers> {
        let mut batch = batch.clone();
        batch.answers.iter_mut().for_each(|answer| answer.sample = answer.sample.to_device(device));
        Some(batch)
    }

    fn loss(&self, model: &ThinkerModel, batch: &ScoredAnswers) -> Result<BatchLoss> {
        let count = batch.answers.len() as f64;
        let policy = policy(model, &batch.answers)?;
        let old: Vec<Vec<f32>> = batch.answers.iter().map(|answer| answer.old.clone()).collect();
        let ratios = sequence_ratios(&policy, &old);
        let outside = |ratio: &f32| {
            let moved = f64::from(*ratio) - 1.0;
            moved < -self.range.low || moved > self.range.high
        };
        let clipped = nn::to_f32_vec(&ratios).iter().filter(|ratio| outside(ratio)).count() as f64;
        let mut parts = BTreeMap::from([
            ("reward", batch.answers.iter().map(|answer| answer.reward).sum::<f64>() / count),
            ("outside_range", clipped / count),
        ]);
        parts.extend(&batch.counts);
        let loss = match self.per_token {
            true => {
                let advantages = batch.answers.iter().map(ScoredAnswer::of_tokens).collect::<Result<Vec<_>>>()?;
                gspo_token(&policy, &old, &advantages, self.range)
            }
            false => {
                let advantages: Vec<f64> = batch.answers.iter().map(|answer| answer.advantage).collect();
                gspo(ratios, &advantages, self.range)
            }
        };
        let mut sum = loss * count;
        if let Some(reference) = &self.reference {
            let mut given = batch.answers.clone();
            given.iter_mut().for_each(|answer| answer.sample = answer.sample.inner());
            note_policy(reference, &mut given)?;
            let reference: Vec<Vec<f32>> = given.into_iter().map(|answer| answer.old).collect();
            let divergence = k3_divergence(&policy, &reference);
            parts.insert("divergence", f64::from(divergence.clone().into_scalar::<f32>()));
            sum = sum + divergence * (self.divergence * count);
        }
        Ok(BatchLoss { sum, extra: None, parts })
    }
}
