//! The objective of distillation: the divergence from a teacher.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use checkpoint::Checkpoint;

use super::super::adapters::{THINKER, check_trained, trainable_thinker};
use super::super::settings::LoraSettings;
use super::lessons::Lessons;
use super::settings::DistillSettings;
use super::teacher::{Teacher, TeacherLogits, check_top_k};
use crate::data::Location;
use crate::lora::{Adapters, write_adapter};
use crate::loss::{cross_entropy, distill, distill_top_k};
use crate::model::{Sample, ThinkerModel};
use crate::trainer::{BatchLoss, Objective, Trainer};
use crate::{Error, Result};

/// Distillation of the thinker from a teacher: the divergence of their probabilities at every token of an answer, and cross-entropy if
/// it is asked for.
#[derive(Debug)]
pub struct Distilling {
    teacher: Box<dyn Teacher>,
    settings: DistillSettings,
    /// The adapters' settings and the directory of the model they belong to.
    adapter: Option<(LoraSettings, PathBuf)>,
}

impl Distilling {
    /// Checks settings for a checkpoint of which nothing is loaded: neither the student nor a teacher.
    ///
    /// # Errors
    /// [`Error::NothingTrained`] for patterns that match nothing, and [`Error::Option`] naming a setting.
    pub fn check(directory: &Path, settings: &DistillSettings) -> Result<()> {
        settings.validate()?;
        let checkpoint = Checkpoint::open(directory)?;
        check_trained(&checkpoint, THINKER, &settings.train, settings.lora.as_ref())?;
        // The teacher has the student's vocabulary.
        settings.top_k.map_or(Ok(()), |k| check_top_k(&checkpoint, k))
    }

    /// Loads a checkpoint for training, with adapters if the settings ask for them. Returns the trainer before its first step.
    ///
    /// # Errors
    /// The errors of the checkpoint, [`Error::NothingTrained`] for patterns that match nothing, and [`Error::Option`] naming a setting,
    /// as answers of its own with a teacher who knows only stored ones.
    pub fn trainer(
        directory: &Path,
        teacher: Box<dyn Teacher>,
        settings: &DistillSettings,
        device: &Device,
    ) -> Result<Trainer<Self>> {
        Self::check(directory, settings)?;
        if settings.on_policy.is_some() && !teacher.knows_new_answers() {
            let reason = "set, but the teacher's logits are stored: expected a checkpoint, which can judge new answers";
            return Err(Error::Option { name: "on_policy", reason: reason.into() });
        }
        let checkpoint = Checkpoint::open(directory)?;
        let DistillSettings { train, lora, run, .. } = settings;
        let (model, names) = trainable_thinker(&checkpoint, train, lora.as_ref(), run, device)?;
        let objective = Self {
            teacher,
            settings: settings.clone(),
            adapter: lora.clone().map(|lora| (lora, directory.to_owned())),
        };
        Ok(Trainer::new(objective, model, names, run))
    }

    /// Mean divergence of the rows.
    fn divergence(&self, student: &Tensor<2>, lessons: &Lessons) -> Result<Tensor<1>> {
        let DistillSettings { divergence, temperature, top_k, .. } = self.settings;
        // Only the teacher's logits of this batch are ever held.
        let given = self.teacher.logits(lessons)?;
        let given = match top_k {
            Some(k) => {
                let (ids, logits) = given.best(k)?;
                TeacherLogits { logits, ids: Some(ids) }
            }
            None => given,
        };
        let ([rows, vocabulary], [found, width]) = (student.dims(), given.logits.dims());
        if rows != found || (given.ids.is_none() && vocabulary != width) {
            let reason = format!("the teacher gave logits [{found}, {width}] for the student's [{rows}, {vocabulary}]");
            return Err(Error::Batch(reason));
        }
        Ok(match given.ids {
            Some(ids) => distill_top_k(student.clone(), ids, given.logits, divergence, temperature),
            None => distill(student.clone(), given.logits, divergence, temperature),
        })
    }
}

impl Objective for Distilling {
    type Model = ThinkerModel;
    type Batch = Lessons;

    fn rows(&self, batch: &Lessons) -> usize {
        batch.samples.iter().map(Sample::learned).sum()
    }

    fn tokens(&self, batch: &Lessons) -> usize {
        batch.samples.iter().map(|sample| sample.ids.len()).sum()
    }

    fn origin(&self, batch: &Lessons) -> String {
        batch.places.iter().map(Location::to_string).collect::<Vec<_>>().join(", ")
    }

    fn moved(&self, batch: &Lessons, device: &Device) -> Option<Lessons> {
        let samples = batch.samples.iter().map(|sample| sample.to_device(device)).collect();
        Some(Lessons { samples, places: batch.places.clone() })
    }

    fn loss(&self, model: &ThinkerModel, batch: &Lessons) -> Result<BatchLoss> {
        let found = model.forward(&batch.samples, false)?;
        let rows = found.labels.len() as f64;
        let divergence = self.divergence(&found.logits, batch)?;
        let ce = cross_entropy(found.logits.clone(), &found.labels)?;
        let value = |tensor: &Tensor<1>| f64::from(tensor.clone().into_scalar::<f32>());
        let mut parts = BTreeMap::from([("kl", value(&divergence)), ("ce", value(&ce) / rows)]);
        let DistillSettings { kl, ce: weight, balance, .. } = self.settings;
        let mut sum = divergence * (kl * rows);
        if weight > 0.0 {
            sum = sum + ce * weight;
        }
        if let Some(found) = &found.balance {
            parts.insert("aux", value(found));
        }
        let extra = found.balance.filter(|_| balance > 0.0).map(|found| found * balance);
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
