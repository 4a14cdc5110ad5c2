use std::path::{Path, PathBuf};

use qwen3_omni::{Device, Dtype, FinishReason, GenerateOptions, Omni, Reply, SamplingOptions};
use serde::{Deserialize, Serialize};

use crate::at_once::{admitted, at_once, spread_seed};
use crate::data::{BatchItem, BatchOptions, Batches, BatchesState, DataSource, Line, SampleOptions, SampleReader};
use crate::model::{Sample, ThinkerModel};
use crate::trainer::{Objective, Trainer, write_model};
use crate::{Error, Result};

/// The thinker as it is answers prompts, through the product's own code, so that what is trained is what will answer.
#[derive(Debug)]
pub(super) struct Answering<'a> {
    source: &'a Path,
    /// Weights that answer; written anew for each round.
    folder: PathBuf,
    prompts: Batches,
    settings: AnswerSettings,
    device: Device,
    end: u32,
    state: AnsweringState,
}

/// How prompts are answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerSettings {
    /// Prompts of one round.
    pub(super) prompts: usize,
    /// Answers to each prompt.
    pub(super) group: usize,
    pub(super) temperature: f32,
    pub(super) max_new_tokens: usize,
    pub(super) seed: u64,
    /// Number type of the answers' computation: the policy's own.
    pub(super) dtype: Dtype,
}

/// A prompt with its answers.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) line: Line,
    pub(super) answers: Vec<Answer>,
}

/// One answer that the thinker wrote.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: String,
    /// Prompt and answer; only the answer's tokens have labels.
    pub(super) sample: Sample,
}

impl Answer {
    /// Whether it has a token: an answer without one has no probability.
    pub(super) fn has_tokens(&self) -> bool {
        self.sample.labels.iter().flatten().next().is_some()
    }
}

/// Where it stands: a resumed run begins with new prompts; answers of a round that were not used are lost.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct AnsweringState {
    rounds: u64,
    prompts: Option<BatchesState>,
}

impl<'a> Answering<'a> {
    /// Begins with the first prompt, or where another run stood. `source` is the checkpoint that training started from; the weights that
    /// answer are written to `folder`.
    pub(super) fn start(
        (source, folder): (&'a Path, PathBuf),
        sources: Vec<DataSource>,
        settings: AnswerSettings,
        device: Device,
        state: Option<serde_json::Value>,
    ) -> Result<Self> {
        let unreadable = |error| Error::Option { name: "state", reason: format!("{error}") };
        let state: AnsweringState =
            state.map(serde_json::from_value).transpose().map_err(unreadable)?.unwrap_or_default();
        let reader = SampleReader::open(source, SampleOptions::default())?;
        let end = reader.end_of_turn();
        let mut options = BatchOptions::default();
        // Only the number of prompts makes a round.
        (options.tokens_per_batch, options.rows, options.window) = (usize::MAX, Some(settings.prompts), 1);
        (options.seed, options.needs_labels) = (settings.seed, false);
        let prompts = Batches::start(sources, reader, options, state.prompts.clone())?;
        Ok(Self { source, folder, prompts, settings, device, end, state })
    }

    /// Answers the prompts of a round.
    pub(super) fn round<O: Objective<Model = ThinkerModel>>(&mut self, trainer: &Trainer<O>) -> Result<Vec<Answered>> {
        let prompts = self.prompts.next().ok_or_else(|| Error::Batch("there are no prompts".into()))??;
        write_model(self.source, &self.folder, trainer, trainer.trained())?;
        let omni = Omni::builder(&self.folder)
            .device(self.device.clone())
            .dtype(self.settings.dtype)
            .text_only()
            .max_answers(admitted(self.settings.group))
            .load()?;
        let numbered = prompts.items.into_iter().enumerate();
        let answered = numbered.map(|(number, prompt)| self.answers(&omni, prompt, number as u64));
        let answered = answered.collect::<Result<_>>()?;
        self.state = AnsweringState { rounds: self.state.rounds + 1, prompts: Some(self.prompts.state().clone()) };
        Ok(answered)
    }

    /// Writes the answers to one prompt.
    fn answers(&self, omni: &Omni, BatchItem { line, sample, .. }: BatchItem, number: u64) -> Result<Answered> {
        let options = line.answer_options(&self.options(number));
        let asked = (0..self.settings.group as u64)
            .map(|index| (line.prompt(), options.clone().seed(options.seed.wrapping_add(index))));
        let replies = at_once(omni, asked)?;
        let prompt = omni.prompt(line.prompt(), &options)?.ids().to_vec();
        let media = sample.to_sample(&self.device.open()?.autodiff()).media;
        let answers = replies.into_iter().map(|reply| {
            let written = written(&reply, self.end);
            let labels = prompt.iter().map(|_| None).chain(written.iter().copied().map(Some)).collect();
            let ids = [prompt.as_slice(), &written].concat();
            let sample = Sample { ids, labels, media: media.clone(), text_from: Some(prompt.len()) };
            Answer { text: reply.text, sample }
        });
        Ok(Answered { answers: answers.collect(), line })
    }

    /// Options of answers as the policy alone would write them.
    fn options(&self, number: u64) -> GenerateOptions {
        let number = self.state.rounds * self.settings.prompts as u64 + number + 1;
        // No top-k, top-p or penalty: the answers must be the policy's own.
        let thinker = SamplingOptions::greedy().sampled().temperature(self.settings.temperature);
        GenerateOptions::default()
            .thinker(thinker)
            .speech(false)
            .max_new_tokens(self.settings.max_new_tokens)
            .seed(spread_seed(self.settings.seed, number))
    }

    /// Where it stands behind the last round.
    pub(super) fn state(&self) -> Result<serde_json::Value> {
        serde_json::to_value(&self.state).map_err(|error| Error::Option { name: "state", reason: error.to_string() })
    }
}

/// The tokens of an answer, its end token included if it was written.
fn written(reply: &Reply, end: u32) -> Vec<u32> {
    let ended = reply.finish_reason == FinishReason::End;
    reply.token_ids.iter().copied().chain(ended.then_some(end)).collect()
}
