use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use checkpoint::Checkpoint;
use moe_talker::TalkerConfig;

use super::adapters::{TALKER, check_trained, with_adapters};
use super::settings::{LoraSettings, TalkerSettings};
use super::spoken_reader::{SpokenReader, SpokenSample};
use crate::lora::{Adapters, write_adapter};
use crate::model::TalkerModel;
use crate::trainer::{BatchLoss, Objective, Trainer, write_json};
use crate::{Error, ParamNames, Patterns, Result};

/// The talker's stages: mapping, continual pre-training, a new speaker. Codes are given; the thinker is not trained.
#[derive(Debug)]
pub struct Talking {
    reader: SpokenReader,
    settings: TalkerSettings,
    speaker: Option<NewSpeaker>,
    /// Directory of the model that adapters belong to.
    base: PathBuf,
}

/// A speaker that the checkpoint does not have yet.
#[derive(Debug)]
struct NewSpeaker {
    name: String,
    /// The first row of the codec embedding behind those of other speakers.
    id: u32,
    /// Rows of the other speakers.
    others: Vec<u32>,
}

impl NewSpeaker {
    fn of(checkpoint: &Checkpoint, name: &str) -> Result<Self> {
        let config: TalkerConfig = checkpoint.config().section()?;
        let name = name.to_lowercase();
        if name.is_empty() || config.speaker_id.contains_key(&name) {
            let reason = format!("`{name}`, expected a name that the checkpoint does not have");
            return Err(Error::Option { name: "new_speaker", reason });
        }
        let others: Vec<u32> = config.speaker_id.into_values().collect();
        let id = others.iter().max().map_or(0, |last| last + 1);
        Ok(Self { name, id, others })
    }

    /// Adds the speaker to the config of a checkpoint.
    fn add_to(&self, folder: &Path) -> Result<()> {
        let path = folder.join("config.json");
        let mut config: serde_json::Value = checkpoint::read_json(&path)?;
        config["talker_config"]["speaker_id"][&self.name] = self.id.into();
        write_json(&path, &config)
    }
}

/// A batch of spoken answers.
#[derive(Debug, Clone)]
pub struct SpokenAnswers {
    /// The conversations.
    pub samples: Vec<SpokenSample>,
    /// Where they came from, as `file:line, …`.
    pub origin: String,
}

impl Talking {
    /// Loads a checkpoint for training the talker. Returns the trainer before its first step.
    ///
    /// # Errors
    /// The errors of the checkpoint, [`Error::NothingTrained`] for patterns that match nothing, and [`Error::Option`] naming a setting.
    pub fn trainer(directory: &Path, settings: &TalkerSettings, device: &Device) -> Result<Trainer<Self>> {
        let (checkpoint, dtype) = (Checkpoint::open(directory)?, settings.run.dtype.into());
        let speaker = settings.new_speaker.as_deref().map(|name| NewSpeaker::of(&checkpoint, name)).transpose()?;
        match (&speaker, &settings.lora) {
            // Its row is trained, whatever else is.
            (Some(_), None) => drop(settings.train.parse::<Patterns>()?),
            (_, lora) => check_trained(&checkpoint, TALKER, &settings.train, lora.as_ref())?,
        }
        let plain = device.clone();
        let device = device.clone().autodiff();
        let mut model = TalkerModel::from_checkpoint(&checkpoint, &device, dtype)?;
        let mut added = BTreeSet::new();
        let mut trained = settings.train.clone();
        if let Some(NewSpeaker { id, others, .. }) = &speaker {
            let name;
            (model, name) = model.with_speaker(*id, others)?;
            trained = format!("{trained} +{name}");
            added.insert(name);
        }
        let (model, names, trained) = match &settings.lora {
            None => {
                let names = ParamNames::new(checkpoint.tensors().keys().cloned().chain(added));
                (model, names, trained.parse()?)
            }
            Some(lora) => {
                let kept: String = added.iter().map(|name| format!(" +{name}")).collect();
                let start = ((&device, dtype), added);
                let (model, names, adapters) = with_adapters(&checkpoint, model, lora, settings.run.seed, start)?;
                (model, names, format!("{adapters}{kept}").parse()?)
            }
        };
        let (model, _) = names.freeze(model, &trained)?;
        let objective = Self {
            reader: SpokenReader::new(&checkpoint, &plain, dtype)?,
            settings: settings.clone(),
            speaker,
            base: directory.to_owned(),
        };
        Ok(Trainer::new(objective, model, names, &settings.run))
    }
}

impl Talking {
    /// Name and codec id of the speaker that is new.
    pub fn new_speaker(&self) -> Option<(&str, u32)> {
        self.speaker.as_ref().map(|speaker| (speaker.name.as_str(), speaker.id))
    }
}

impl Objective for Talking {
    type Model = TalkerModel;
    type Batch = SpokenAnswers;

    /// First codes and the end code; residual codes are a mean of their own.
    fn rows(&self, batch: &SpokenAnswers) -> usize {
        batch.samples.iter().map(|sample| sample.codes.len() + usize::from(sample.ends)).sum()
    }

    fn tokens(&self, batch: &SpokenAnswers) -> usize {
        batch.samples.iter().map(|spoken| spoken.sample.ids.len() + spoken.codes.len()).sum()
    }

    fn origin(&self, batch: &SpokenAnswers) -> String {
        batch.origin.clone()
    }

    fn moved(&self, batch: &SpokenAnswers, device: &Device) -> Option<SpokenAnswers> {
        let samples = batch.samples.iter().map(|spoken| spoken.to_device(device)).collect();
        Some(SpokenAnswers { samples, origin: batch.origin.clone() })
    }

    fn loss(&self, model: &TalkerModel, batch: &SpokenAnswers) -> Result<BatchLoss> {
        let found = self.reader.forward(model, &batch.samples)?;
        let (first, residual) = (found.first_codes()?, Tensor::cat(found.residual_codes()?, 0).mean());
        let value = |tensor: &Tensor<1>| f64::from(tensor.clone().into_scalar::<f32>());
        let mut parts = BTreeMap::from([("first_code", value(&first)), ("residual", value(&residual))]);
        let mut extra = residual * self.settings.residual;
        if let Some(balance) = found.balance {
            parts.insert("aux", value(&balance));
            extra = extra + balance * self.settings.balance;
        }
        Ok(BatchLoss { sum: first * found.labels.len() as f64, extra: Some(extra), parts })
    }

    fn adapters(&self) -> Option<Adapters> {
        self.settings.lora.as_ref().map(LoraSettings::adapters)
    }

    fn export(&self, folder: &Path, parameters: &BTreeMap<String, Vec<f32>>) -> Result<()> {
        self.speaker.as_ref().map_or(Ok(()), |speaker| speaker.add_to(folder))?;
        match &self.settings.lora {
            Some(LoraSettings { rank, alpha, .. }) => write_adapter(folder, parameters, *rank, *alpha, &self.base),
            None => Ok(()),
        }
    }
}
