//! Training of the audio encoder with a text decoder behind it (paper, section 2.2).

mod decoder;
mod reader;
mod settings;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use checkpoint::Checkpoint;

pub use reader::TranscriptReader;
pub use settings::AutSettings;

use crate::loss::{cross_entropy, indices, smoothed_cross_entropy};
use crate::model::{AutModel, Transcript, moved};
use crate::trainer::{BatchLoss, Objective, Trainer};
use crate::{Patterns, Result};
use decoder::{DecoderFile, starting_model};

/// Training of the audio encoder with a text decoder: cross-entropy on the text of each sound and the id that ends it.
#[derive(Debug)]
pub struct Transcribing {
    label_smoothing: f64,
    file: DecoderFile,
}

/// A sound and its text.
#[derive(Debug, Clone)]
pub struct TranscriptSample {
    /// Log-mel frames `[T, M]`.
    pub sound: Tensor<2>,
    /// Prompt, text and the id that ends it.
    pub ids: Vec<u32>,
    /// The label of each id, at its own index.
    pub labels: Vec<Option<u32>>,
    /// Rows that the encoder makes of the sound.
    pub rows: usize,
}

/// A batch of sounds with their texts.
#[derive(Debug, Clone)]
pub struct Transcripts {
    /// The sounds.
    pub items: Vec<TranscriptSample>,
    /// Attention window of the encoder, in seconds.
    pub window: usize,
    /// Where they came from, as `file:line, …`.
    pub origin: String,
}

impl Transcribing {
    /// Loads a checkpoint for training its audio encoder, with the decoder that lies beside it or a new one. Returns the trainer before
    /// its first step.
    ///
    /// # Errors
    /// The errors of the checkpoint, [`crate::Error::NothingTrained`] for patterns that match nothing, and [`crate::Error::Option`]
    /// naming a setting.
    pub fn trainer(directory: &Path, settings: &AutSettings, device: &Device) -> Result<Trainer<Self>> {
        settings.validate()?;
        let checkpoint = Checkpoint::open(directory)?;
        let trained: Patterns = settings.train.parse()?;
        let (model, names, mut file) = starting_model(&checkpoint, settings, &trained, device)?;
        let (model, _) = names.freeze(model, &trained)?;
        file.freeze(&model, &names, &trained);
        let objective = Self { label_smoothing: settings.label_smoothing, file };
        Ok(Trainer::new(objective, model, names, &settings.run))
    }
}

impl Objective for Transcribing {
    type Model = AutModel;
    type Batch = Transcripts;

    fn rows(&self, batch: &Transcripts) -> usize {
        // The first token has no row before it.
        batch.items.iter().flat_map(|item| item.labels.iter().skip(1)).flatten().count()
    }

    fn tokens(&self, batch: &Transcripts) -> usize {
        batch.items.iter().map(|item| item.rows + item.ids.len()).sum()
    }

    fn origin(&self, batch: &Transcripts) -> String {
        batch.origin.clone()
    }

    fn moved(&self, batch: &Transcripts, device: &Device) -> Option<Transcripts> {
        let mut batch = batch.clone();
        batch.items.iter_mut().for_each(|item| item.sound = moved(&item.sound, device));
        Some(batch)
    }

    fn loss(&self, model: &AutModel, batch: &Transcripts) -> Result<BatchLoss> {
        let items = batch.items.iter().map(|item| Transcript { sound: item.sound.clone(), ids: &item.ids });
        let items: Vec<Transcript> = items.collect();
        let encoded = model.encode(&items, Some(batch.window))?;
        let hidden = model.hidden_states(&encoded, &items)?; // [all ids, D]
        let (places, labels) = batch.labelled();
        let logits = model.logits(&hidden.clone().select(0, indices(places, &hidden.device()))); // [n, V]
        let plain = cross_entropy(logits.clone().detach(), &labels)?;
        let ce = f64::from(plain.into_scalar::<f32>()) / labels.len() as f64;
        let parts = BTreeMap::from([("ce", ce), ("window", batch.window as f64)]);
        Ok(BatchLoss { sum: smoothed_cross_entropy(logits, &labels, self.label_smoothing)?, extra: None, parts })
    }

    fn export(&self, folder: &Path, parameters: &BTreeMap<String, Vec<f32>>) -> Result<()> {
        self.file.write(folder, parameters)
    }
}

impl Transcripts {
    /// The rows that predict a label, one item after another, and their labels.
    fn labelled(&self) -> (Vec<usize>, Vec<u32>) {
        let (mut found, mut start) = (Vec::new(), 0);
        for item in &self.items {
            // A label at `t` is predicted one row earlier.
            let labels = item.labels.iter().enumerate().skip(1);
            found.extend(labels.filter_map(|(at, label)| Some((start + at - 1, (*label)?))));
            start += item.ids.len();
        }
        found.into_iter().unzip()
    }
}
