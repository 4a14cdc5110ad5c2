use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use checkpoint::Checkpoint;

use super::adapters::{TALKER, check_trained};
use super::settings::DpoSettings;
use super::spoken_reader::{SpokenReader, SpokenSample};
use crate::loss::{DpoOptions, Preference, dpo};
use crate::model::{TalkerForward, TalkerModel};
use crate::trainer::{BatchLoss, Objective, Trainer};
use crate::{ParamNames, Patterns, Result};

/// Direct preference optimisation of the talker: of two speeches of one answer, the chosen one becomes likelier than the rejected one,
/// measured against the talker as it was at the start.
#[derive(Debug)]
pub struct Preferring {
    reader: SpokenReader,
    /// The talker as it was at the start, without gradients.
    reference: TalkerModel,
    settings: DpoSettings,
}

/// Two speeches of one answer.
#[derive(Debug, Clone)]
pub struct SpokenPair {
    /// The better one.
    pub chosen: SpokenSample,
    /// The worse one.
    pub rejected: SpokenSample,
}

/// A batch of pairs.
#[derive(Debug, Clone)]
pub struct SpokenPairs {
    /// The pairs.
    pub pairs: Vec<SpokenPair>,
    /// Where they came from, as `file:line, …`.
    pub origin: String,
}

impl Preferring {
    /// Loads a checkpoint for training the talker. Returns the trainer before its first step.
    ///
    /// # Errors
    /// The errors of the checkpoint, and [`crate::Error::NothingTrained`] for patterns that match nothing.
    pub fn trainer(directory: &Path, settings: &DpoSettings, device: &Device) -> Result<Trainer<Self>> {
        let (checkpoint, dtype) = (Checkpoint::open(directory)?, settings.run.dtype.into());
        check_trained(&checkpoint, TALKER, &settings.train, None)?;
        let names = ParamNames::new(checkpoint.tensors().keys().cloned());
        let trained: Patterns = settings.train.parse()?;
        let model = TalkerModel::from_checkpoint(&checkpoint, &device.clone().autodiff(), dtype)?;
        let (model, _) = names.freeze(model, &trained)?;
        let objective = Self {
            reader: SpokenReader::new(&checkpoint, device, dtype)?,
            reference: TalkerModel::from_checkpoint(&checkpoint, device, dtype)?,
            settings: settings.clone(),
        };
        Ok(Trainer::new(objective, model, names, &settings.run))
    }

    /// Log-probability of each speech, `[speeches]`.
    fn log_probs(&self, found: &TalkerForward) -> Result<Tensor<1>> {
        let [first, residual] = found.log_probs()?;
        let all = if self.settings.first_code_only { first } else { first + residual };
        if !self.settings.length_normalised {
            return Ok(all);
        }
        let rows = found.rows.iter().map(|rows| *rows as f32).collect();
        Ok(all.clone() / crate::loss::constants(rows, &all.device()))
    }
}

impl Objective for Preferring {
    type Model = TalkerModel;
    type Batch = SpokenPairs;

    fn rows(&self, batch: &SpokenPairs) -> usize {
        batch.pairs.len()
    }

    fn tokens(&self, batch: &SpokenPairs) -> usize {
        let of = |sample: &SpokenSample| sample.sample.ids.len() + sample.codes.len();
        batch.pairs.iter().map(|pair| of(&pair.chosen) + of(&pair.rejected)).sum()
    }

    fn origin(&self, batch: &SpokenPairs) -> String {
        batch.origin.clone()
    }

    fn moved(&self, batch: &SpokenPairs, device: &Device) -> Option<SpokenPairs> {
        let pair = |SpokenPair { chosen, rejected }: &SpokenPair| SpokenPair {
            chosen: chosen.to_device(device),
            rejected: rejected.to_device(device),
        };
        Some(SpokenPairs { pairs: batch.pairs.iter().map(pair).collect(), origin: batch.origin.clone() })
    }

    fn loss(&self, model: &TalkerModel, batch: &SpokenPairs) -> Result<BatchLoss> {
        let samples: Vec<SpokenSample> =
            batch.pairs.iter().flat_map(|pair| [pair.chosen.clone(), pair.rejected.clone()]).collect();
        let reference = self.log_probs(&self.reader.forward(&self.reference, &samples)?)?;
        let reference: Vec<f64> = nn::to_f32_vec(&reference).into_iter().map(f64::from).collect();
        let policy = self.log_probs(&self.reader.forward(model, &samples)?)?;
        let pair = Preference::alternating(&policy);
        let margin = pair.margin(&reference);
        let DpoSettings { beta, label_smoothing, chosen, .. } = self.settings;
        let loss = dpo(margin.clone(), DpoOptions { beta, label_smoothing });
        let margins = nn::to_f32_vec(&margin);
        let right = margins.iter().filter(|margin| **margin > 0.0).count() as f64 / margins.len() as f64;
        let mean = margins.iter().map(|margin| f64::from(*margin)).sum::<f64>() / margins.len() as f64;
        let parts = BTreeMap::from([("margin", mean), ("preferred", right)]);
        let extra = (chosen > 0.0).then(|| pair.chosen.mean().neg() * chosen);
        Ok(BatchLoss { sum: loss * batch.pairs.len() as f64, extra, parts })
    }
}
