use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use qwen3_omni::Device;

use super::answering::{Answer, AnswerSettings, Answered, Answering};
use super::gspo::{Rewarding, ScoredAnswer, ScoredAnswers, note_policy};
use super::settings::GspoSettings;
use crate::data::DataSource;
use crate::loss::advantages;
use crate::reward::Reward;
use crate::trainer::{Feed, Trainer};
use crate::{Error, Result};

/// Makes the data of GSPO: the thinker answers prompts several times, the answers are rewarded, and batches are cut from them.
///
/// The answers are written by the product itself from the weights as they are, so that what is trained is what will answer.
pub struct Rollouts<'a> {
    answering: Answering<'a>,
    reward: &'a dyn Reward,
    settings: &'a GspoSettings,
    /// Batches of the last round that are not used yet.
    waiting: VecDeque<ScoredAnswers>,
}

impl std::fmt::Debug for Rollouts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rollouts").field("answering", &self.answering).finish_non_exhaustive()
    }
}

/// Rounds in a row whose groups all have equal rewards, after which there is nothing to learn.
const MOST_EMPTY: usize = 20;

/// All answers to one prompt.
struct Group {
    answers: Vec<ScoredAnswer>,
    origin: String,
}

impl<'a> Rollouts<'a> {
    /// Begins with the first prompt, or where another run stood. `source` is the checkpoint that training started from; the weights that
    /// answer are written to `folder`.
    ///
    /// # Errors
    /// The errors of [`crate::data::Batches::start`], and those of the source's config.
    pub fn start(
        place: (&'a Path, PathBuf),
        sources: Vec<DataSource>,
        reward: &'a dyn Reward,
        settings: &'a GspoSettings,
        device: Device,
        state: Option<serde_json::Value>,
    ) -> Result<Self> {
        let GspoSettings { prompts, group, temperature, max_new_tokens, run, .. } = settings;
        let answers = AnswerSettings {
            prompts: *prompts,
            group: *group,
            temperature: *temperature,
            max_new_tokens: *max_new_tokens,
            seed: run.seed,
            dtype: run.dtype.into(),
        };
        let answering = Answering::start(place, sources, answers, device, state)?;
        Ok(Self { answering, reward, settings, waiting: VecDeque::new() })
    }

    /// Has the thinker answer some prompts, and cuts the answers into batches.
    fn round(&mut self, trainer: &Trainer<Rewarding>) -> Result<()> {
        let answered = self.answering.round(trainer)?;
        let groups = answered.into_iter().map(|answered| self.group(answered)).collect::<Result<Vec<_>>>()?;
        // Equal rewards teach nothing.
        let teaches = |group: &Group| group.answers.iter().any(|answer| answer.advantage != 0.0);
        self.cut(trainer, groups.into_iter().filter(teaches).collect())
    }

    /// Scores the answers to one prompt.
    fn group(&self, Answered { line, answers }: Answered) -> Result<Group> {
        let texts: Vec<String> = answers.iter().map(|answer| answer.text.clone()).collect();
        let rewards = self.reward.score(&line, &texts)?;
        if rewards.len() != texts.len() || rewards.iter().any(|reward| !reward.is_finite()) {
            let reason = format!("rewards {rewards:?} of {} answers, expected one finite number each", texts.len());
            return Err(line.location.refuse(reason));
        }
        let scored = answers.into_iter().zip(advantages(&rewards)).zip(&rewards);
        let scored = scored.filter(|((answer, _), _)| answer.has_tokens());
        let answers = scored.map(|((Answer { sample, .. }, advantage), reward)| ScoredAnswer {
            sample,
            reward: *reward,
            advantage,
            token_advantages: Vec::new(),
            old: Vec::new(),
        });
        Ok(Group { answers: answers.collect(), origin: line.location.to_string() })
    }

    /// Splits a round's answers over as many steps as the settings say, with the log-probabilities they have now.
    fn cut(&mut self, trainer: &Trainer<Rewarding>, groups: Vec<Group>) -> Result<()> {
        let steps = self.settings.steps_per_round.min(groups.len());
        let mut batches = vec![ScoredAnswers::default(); steps];
        // Once for the round, with its first step: counts of the log add up.
        if let Some(first) = batches.first_mut() {
            first.counts = self.reward.take_counts().into_iter().map(|(name, count)| (name, count as f64)).collect();
        }
        for (index, group) in groups.into_iter().enumerate() {
            let batch = &mut batches[index % steps];
            let comma = if batch.origin.is_empty() { "" } else { ", " };
            batch.origin.push_str(&format!("{comma}{}", group.origin));
            batch.answers.extend(group.answers);
        }
        batches.iter_mut().try_for_each(|batch| note_policy(&trainer.model, &mut batch.answers))?;
        self.waiting.extend(batches);
        Ok(())
    }
}

impl Feed<Rewarding> for Rollouts<'_> {
    /// A part of the last round, or of a new one.
    fn next_step(&mut self, trainer: &Trainer<Rewarding>) -> Result<Vec<ScoredAnswers>> {
        let mut empty = 0;
        while self.waiting.is_empty() {
            if empty == MOST_EMPTY {
                return Err(Error::EqualRewards { rounds: empty });
            }
            self.round(trainer)?;
            empty += 1;
        }
        Ok(self.waiting.pop_front().into_iter().collect())
    }

    fn state(&self) -> Result<serde_json::Value> {
        self.answering.state()
    }
}
