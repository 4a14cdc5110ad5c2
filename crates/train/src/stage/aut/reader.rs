use burn::tensor::{Device, Tensor, TensorData};
use qwen3_omni::ReadMedia;

use super::settings::AutSettings;
use super::{TranscriptSample, Transcripts};
use crate::Result;
use crate::data::{Batch, BatchItem};
use crate::random::{Draws, Purpose};
use crate::stage::AugmentSettings;

/// Makes batches for [`super::Transcribing`]: draws the attention window of each and masks its sounds. What is drawn depends on the
/// seed and the batch's number only.
#[derive(Debug)]
pub struct TranscriptReader {
    settings: AutSettings,
    /// The number of the last batch.
    number: u64,
    device: Device,
}

impl TranscriptReader {
    /// Makes a reader whose first batch is the one after the first `taken`.
    pub fn new(settings: AutSettings, taken: u64, device: Device) -> Self {
        Self { settings, number: taken, device }
    }

    /// Makes a batch of lines that were read with [`crate::data::SampleOptions::recognition`].
    ///
    /// # Errors
    /// [`crate::Error::Data`] naming a line that was not.
    pub fn batch(&mut self, batch: Batch) -> Result<Transcripts> {
        self.number += 1;
        let (origin, windows) = (batch.origin(), &self.settings.windows);
        let window = Draws::new(Purpose::AttentionWindow, &[self.settings.run.seed, self.number]).below(windows.len());
        let items = batch.items.into_iter().enumerate().map(|(index, item)| self.sample(item, index));
        Ok(Transcripts { items: items.collect::<Result<_>>()?, window: windows[window], origin })
    }

    fn sample(&self, item: BatchItem, index: usize) -> Result<TranscriptSample> {
        let BatchItem { line, mut sample, .. } = item;
        let (Some(ReadMedia::Sound(mel)), true) = (sample.media.pop(), sample.media.is_empty()) else {
            return Err(line.location.refuse("expected one sound"));
        };
        let (frames, bins) = (mel.frames(), mel.bins());
        let mut values = mel.into_values();
        let mut draws = AugmentSettings::draws(self.settings.run.seed, self.number, index);
        self.settings.augment.apply(&mut values, bins, &mut draws);
        let rows = sample.ids.iter().take_while(|id| **id == sample.ids[0]).count();
        Ok(TranscriptSample {
            sound: Tensor::from_data(TensorData::new(values, [frames, bins]), &self.device),
            ids: sample.ids.split_off(rows),
            labels: sample.labels.split_off(rows),
            rows,
        })
    }
}
