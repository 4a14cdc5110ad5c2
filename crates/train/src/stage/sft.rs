use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use checkpoint::Checkpoint;

use super::adapters::trainable_thinker;
use super::settings::{LoraSettings, SftSettings};
use crate::Result;
use crate::lora::{Adapters, write_adapter};
use crate::loss::cross_entropy;
use crate::model::{Sample, ThinkerModel};
use crate::trainer::{BatchLoss, Objective, Trainer};

/// Supervised fine-tuning of the thinker: cross-entropy on what the assistant says, and the balance of the routers.
///
/// With other patterns of trained parameters it is also the loss of the pre-training stages, whose rows are all of a document.
#[derive(Debug, Clone)]
pub struct Sft {
    /// Weight of the balancing loss.
    pub balance: f64,
    /// The adapters' settings and the directory of the model they belong to.
    adapter: Option<(LoraSettings, PathBuf)>,
}

/// A batch of conversations.
#[derive(Debug, Clone)]
pub struct Conversations {
    /// The conversations.
    pub samples: Vec<Sample>,
    /// Where they came from, as `file:line, …`.
    pub origin: String,
}

impl Sft {
    /// Loads a checkpoint for training, with adapters if the settings ask for them. Returns the trainer before its first step.
    ///
    /// # Errors
    /// The errors of the checkpoint, [`crate::Error::NothingTrained`] for patterns that match nothing, and [`crate::Error::Option`] naming
    /// a setting.
    pub fn trainer(directory: &Path, settings: &SftSettings, device: &Device) -> Result<Trainer<Self>> {
        settings.augment.validate()?;
        let checkpoint = Checkpoint::open(directory)?;
        let SftSettings { train, lora, run, .. } = settings;
        let (model, names) = trainable_thinker(&checkpoint, train, lora.as_ref(), run, device)?;
        let adapter = lora.clone().map(|lora| (lora, directory.to_owned()));
        Ok(Trainer::new(Self { balance: settings.balance, adapter }, model, names, run))
    }
}

impl Objective for Sft {
    type Model = ThinkerModel;
    type Batch = Conversations;

    fn rows(&self, batch: &Conversations) -> usize {
        batch.samples.iter().map(Sample::learned).sum()
    }

    fn tokens(&self, batch: &Conversations) -> usize {
        batch.samples.iter().map(|sample| sample.ids.len()).sum()
    }

    fn origin(&self, batch: &Conversations) -> String {
        batch.origin.clone()
    }

    fn moved(&self, batch: &Conversations, device: &Device) -> Option<Conversations> {
        let samples = batch.samples.iter().map(|sample| sample.to_device(device)).collect();
        Some(Conversations { samples, origin: batch.origin.clone() })
    }

    fn loss(&self, model: &ThinkerModel, batch: &Conversations) -> Result<BatchLoss> {
        let found = model.forward(&batch.samples, false)?;
        let sum = cross_entropy(found.logits.clone(), &found.labels)?;
        let mean = f64::from(sum.clone().into_scalar::<f32>()) / found.labels.len() as f64;
        let mut parts = BTreeMap::from([("ce", mean)]);
        if let Some(balance) = &found.balance {
            parts.insert("aux", f64::from(balance.clone().into_scalar::<f32>()));
        }
        let extra = found.balance.filter(|_| self.balance > 0.0).map(|balance| balance * self.balance);
        Ok(BatchLoss { sum, extra, parts })
    }

    fn adapters(&self) -> Option<Adapters> {
        self.adapter.as_ref().map(|(lora, _)| lora.adapters())
    }

    fn export(&self, folder: &Path, parameters: &BTreeMap<String, Vec<f32>>) -> Result<()> {
        let Some((lora, base)) = &self.adapter else { return Ok(()) };
        write_adapter(folder, parameters, lora.rank, lora.alpha, base)
    }
}
