use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use qwen3_omni::Device;

use super::super::answering::{AnswerSettings, Answering};
use super::lessons::Lessons;
use super::objective::Distilling;
use super::settings::{DistillSettings, OnPolicySettings};
use crate::data::{DataSource, Location, cut};
use crate::model::Sample;
use crate::trainer::{Feed, RunSettings, Trainer};
use crate::{Error, Result};

/// Lessons on answers that the student writes as it is, through the product's own code.
#[derive(Debug)]
pub struct OwnAnswers<'a> {
    answering: Answering<'a>,
    steps_per_round: usize,
    tokens_per_batch: usize,
    /// Steps of the last round that are not taken yet.
    waiting: VecDeque<Vec<Lessons>>,
}

impl<'a> OwnAnswers<'a> {
    /// Begins with the first prompt, or where another run stood. `source` is the checkpoint that training started from; the weights that
    /// answer are written to `folder`.
    ///
    /// # Errors
    /// The errors of [`crate::data::Batches::start`], and those of the source's config.
    pub fn start(
        place: (&'a Path, PathBuf),
        sources: Vec<DataSource>,
        settings: &DistillSettings,
        device: Device,
        state: Option<serde_json::Value>,
    ) -> Result<Self> {
        let OnPolicySettings { prompts, answers, steps_per_round, temperature, max_new_tokens } =
            settings.on_policy.clone().unwrap_or_default();
        let RunSettings { seed, dtype, tokens_per_batch, .. } = settings.run;
        let dtype = dtype.into();
        let answers = AnswerSettings { prompts, group: answers, temperature, max_new_tokens, seed, dtype };
        let answering = Answering::start(place, sources, answers, device, state)?;
        Ok(Self { answering, steps_per_round, tokens_per_batch, waiting: VecDeque::new() })
    }

    /// Has the student answer some prompts, and splits the answers over the steps of the round.
    fn round(&mut self, trainer: &Trainer<Distilling>) -> Result<()> {
        let mut written = Vec::new();
        for answered in self.answering.round(trainer)? {
            let place = answered.line.location;
            let whole = answered.answers.into_iter().filter(|answer| answer.has_tokens());
            written.extend(whole.map(|answer| (place.clone(), answer.sample)));
        }
        let steps = self.steps_per_round.min(written.len());
        // Each step has answers to as many prompts as can be.
        let step = |first: usize| written.iter().skip(first).step_by(steps).cloned().collect::<Vec<_>>();
        self.waiting.extend((0..steps).map(|first| batches(&step(first), self.tokens_per_batch)));
        Ok(())
    }
}

/// Cuts the answers of a step into batches of at most `tokens` tokens.
fn batches(answers: &[(Location, Sample)], tokens: usize) -> Vec<Lessons> {
    let lengths: Vec<usize> = answers.iter().map(|(_, sample)| sample.ids.len()).collect();
    let batch = |answers: &[(Location, Sample)]| {
        let (places, samples) = answers.iter().cloned().unzip();
        Lessons { samples, places }
    };
    cut(&lengths, tokens, None).into_iter().map(|range| batch(&answers[range])).collect()
}

impl Feed<Distilling> for OwnAnswers<'_> {
    /// A part of the last round, or of a new one.
    fn next_step(&mut self, trainer: &Trainer<Distilling>) -> Result<Vec<Lessons>> {
        if self.waiting.is_empty() {
            self.round(trainer)?;
        }
        // A round whose answers have no tokens would not differ the next time.
        self.waiting.pop_front().ok_or_else(|| Error::Batch("the student's answers of a round have no tokens".into()))
    }

    fn state(&self) -> Result<serde_json::Value> {
        self.answering.state()
    }
}
