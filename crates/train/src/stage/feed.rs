use std::fmt::Debug;

use burn::tensor::Device;
use moe_talker::{TalkerConfig, speaker_id};

use super::dpo::{SpokenPair, SpokenPairs};
use super::sft::Conversations;
use super::spoken_reader::SpokenSample;
use super::talker::SpokenAnswers;
use crate::data::{Batch, Batches, BatchesState, Line, Segments, SpeechTarget, read_codes};
use crate::trainer::{Feed, Objective, Trainer};
use crate::{Error, Result};

/// Batches that know where they stand.
pub trait Resumable {
    /// Where they stand after the last batch that was taken.
    fn state(&self) -> &BatchesState;
}

impl Resumable for Batches {
    fn state(&self) -> &BatchesState {
        Batches::state(self)
    }
}

impl Resumable for Segments {
    fn state(&self) -> &BatchesState {
        Segments::state(self)
    }
}

/// Batches of lines or of segments of recordings, converted to what an objective takes.
pub struct BatchFeed<B, F> {
    batches: B,
    per_step: usize,
    convert: F,
}

impl<B: Debug, F> Debug for BatchFeed<B, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchFeed").field("batches", &self.batches).finish_non_exhaustive()
    }
}

impl<B, F> BatchFeed<B, F> {
    /// Takes `per_step` batches for each step.
    pub fn new(batches: B, per_step: usize, convert: F) -> Self {
        Self { batches, per_step, convert }
    }
}

impl<O, B, T, F> Feed<O> for BatchFeed<B, F>
where
    O: Objective,
    B: Resumable + Iterator<Item = Result<T>>,
    F: FnMut(T) -> Result<O::Batch>,
{
    fn next_step(&mut self, _: &Trainer<O>) -> Result<Vec<O::Batch>> {
        let batches = self.batches.by_ref().take(self.per_step);
        batches.map(|batch| batch.and_then(&mut self.convert)).collect()
    }

    fn state(&self) -> Result<serde_json::Value> {
        let state = serde_json::to_value(self.batches.state());
        state.map_err(|error| Error::Option { name: "state", reason: error.to_string() })
    }
}

/// Makes batches of conversations.
pub fn conversations(batch: Batch, device: &Device) -> Conversations {
    let origin = batch.origin();
    Conversations { samples: batch.to_samples(device), origin }
}

/// Finds voices and codes of spoken answers.
#[derive(Debug)]
pub struct SpeechReader {
    config: TalkerConfig,
    /// The voice of lines that name none.
    speaker: Option<String>,
    device: Device,
}

impl SpeechReader {
    /// Makes a reader for a checkpoint's talker; `speaker` is the voice of lines that name none, and its id may be that of a new one.
    pub fn new(mut config: TalkerConfig, speaker: Option<(String, Option<u32>)>, device: Device) -> Self {
        let speaker = speaker.map(|(name, id)| {
            id.map(|id| config.speaker_id.insert(name.to_lowercase(), id));
            name
        });
        Self { config, speaker, device }
    }

    /// Makes batches of spoken answers.
    ///
    /// # Errors
    /// [`Error::Data`] naming a line without codes or with an unknown speaker, and the errors of [`read_codes`].
    pub fn answers(&self, batch: Batch) -> Result<SpokenAnswers> {
        let origin = batch.origin();
        let samples = batch.items.into_iter().map(|item| {
            let codes = self.codes(&item.line, item.line.speech.as_ref())?;
            Ok(SpokenSample {
                speaker: self.speaker_of(&item.line)?,
                codes,
                ends: true,
                sample: item.sample.to_sample(&self.device),
            })
        });
        Ok(SpokenAnswers { samples: samples.collect::<Result<_>>()?, origin })
    }

    /// Makes batches of pairs: of each line the chosen and the rejected speech.
    ///
    /// # Errors
    /// The errors of [`SpeechReader::answers`].
    pub fn pairs(&self, batch: Batch) -> Result<SpokenPairs> {
        let origin = batch.origin();
        let pairs = batch.items.into_iter().map(|item| {
            let codes =
                [&item.line.speech, &item.line.rejected_speech].map(|speech| self.codes(&item.line, speech.as_ref()));
            let (speaker, [chosen, rejected]) = (self.speaker_of(&item.line)?, codes);
            let sample = item.sample.to_sample(&self.device);
            let chosen = SpokenSample { sample: sample.clone(), speaker, codes: chosen?, ends: true };
            let ends = rejected_ends(&item.line)?;
            Ok(SpokenPair { chosen, rejected: SpokenSample { sample, speaker, codes: rejected?, ends } })
        });
        Ok(SpokenPairs { pairs: pairs.collect::<Result<_>>()?, origin })
    }

    fn speaker_of(&self, line: &Line) -> Result<u32> {
        let name = line.speaker.as_ref().or(self.speaker.as_ref()).or_else(|| self.config.speaker_id.keys().next());
        let name = name.ok_or_else(|| line.location.refuse("no speaker, and the checkpoint has none"))?;
        speaker_id(&self.config.speaker_id, name).map_err(|error| line.location.refuse(error.to_string()))
    }

    fn codes(&self, line: &Line, speech: Option<&SpeechTarget>) -> Result<Vec<Vec<u32>>> {
        match speech {
            Some(SpeechTarget::Codes(path)) => read_codes(path, self.config.num_code_groups, line),
            Some(SpeechTarget::Wave(_)) => Err(line
                .location
                .refuse("speech as a wave, expected `codes`: `qwen3-omni-train encode` makes them of waves")),
            None => Err(line.location.refuse("no `codes` for the spoken answer")),
        }
    }
}

/// Whether the rejected speech of a line ends by itself: its key `rejected_ends`, true without one.
fn rejected_ends(line: &Line) -> Result<bool> {
    match line.extra.get("rejected_ends") {
        None => Ok(true),
        Some(serde_json::Value::Bool(ends)) => Ok(*ends),
        Some(other) => Err(line.location.refuse(format!("`rejected_ends` is {other}, expected true or false"))),
    }
}
