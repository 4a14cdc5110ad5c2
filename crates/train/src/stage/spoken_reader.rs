use burn::tensor::{Device, Tensor};
use checkpoint::Checkpoint;
use moe_talker::Turns;
use omni_core::Dtype;

use crate::Result;
use crate::loss::indices;
use crate::model::{Sample, SpokenAnswer, TalkerForward, TalkerModel, ThinkerModel, end_of_turn, split_answer};

/// A conversation that ends in an answer with its speech.
#[derive(Debug, Clone)]
pub struct SpokenSample {
    /// The conversation; its labels are not used.
    pub sample: Sample,
    /// Codec id of the voice.
    pub speaker: u32,
    /// `[F, Q]`: the codes of the speech.
    pub codes: Vec<Vec<u32>>,
    /// Whether the speech ends behind its last frame, and was not stopped there.
    pub ends: bool,
}

impl SpokenSample {
    /// The same answer for a model on another device.
    pub(super) fn to_device(&self, device: &Device) -> Self {
        Self { sample: self.sample.to_device(device), ..self.clone() }
    }
}

/// Reads conversations for the talker with a thinker that is not trained.
#[derive(Debug)]
pub(super) struct SpokenReader {
    thinker: ThinkerModel,
    turns: Turns,
    end: u32,
}

impl SpokenReader {
    /// Loads the thinker; `device` is one without gradients.
    pub(super) fn new(checkpoint: &Checkpoint, device: &Device, dtype: Dtype) -> Result<Self> {
        Ok(Self {
            thinker: ThinkerModel::from_checkpoint(checkpoint, device, dtype)?,
            turns: checkpoint.config().section()?,
            end: end_of_turn(checkpoint)?,
        })
    }

    /// Runs the talker on spoken answers.
    pub(super) fn forward(&self, model: &TalkerModel, samples: &[SpokenSample]) -> Result<TalkerForward> {
        let embed = |ids: &[u32]| Tensor::from_inner(self.thinker.embed(ids));
        let answers = samples.iter().map(|SpokenSample { sample, speaker, codes, ends }| {
            let (prompt, answer) = split_answer(&sample.ids, &self.turns, self.end)?;
            let (layout, tap) = (self.thinker.layout(&sample.media), self.tap(sample, prompt)?);
            Ok(SpokenAnswer { prompt, answer, layout, tap, embed: &embed, speaker: *speaker, codes, ends: *ends })
        });
        model.forward(&answers.collect::<Result<Vec<_>>>()?)
    }

    /// The thinker's states at the media rows of a prompt, if there are any.
    fn tap(&self, sample: &Sample, prompt: &[u32]) -> Result<Option<Tensor<2>>> {
        let places: Vec<usize> =
            (0..prompt.len()).filter(|at| self.turns.placeholders.contains(&prompt[*at])).collect();
        if places.is_empty() {
            return Ok(None);
        }
        let states = self.thinker.tap(sample)?;
        let rows = states.clone().select(0, indices(places, &states.device()));
        Ok(Some(Tensor::from_inner(rows)))
    }
}
