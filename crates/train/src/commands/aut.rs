use clap::Args;
use qwen3_omni_train::Result;
use qwen3_omni_train::data::{SampleOptions, SampleReader};
use qwen3_omni_train::stage::{AutSettings, BatchFeed, Transcribing, TranscriptReader};

use super::checks::StepBatches;
use super::stage::Common;

/// Train the audio encoder with a text decoder behind it, to recognise speech.
#[derive(Args)]
#[command(after_help = "Example: qwen3-omni-train aut --model nano --data speech.jsonl --out run --set run.steps=2000")]
pub(crate) struct AutCommand {
    #[command(flatten)]
    common: Common,
}

impl AutCommand {
    pub(crate) fn run(&self) -> Result<bool> {
        let settings = self.common.settings(AutSettings::default())?;
        let build = |on: &_| Transcribing::trainer(&self.common.model, &settings, on);
        let (trainer, device) = self.common.trainer(&settings, &settings.run, StepBatches::Set, build)?;
        let on = device.clone().autodiff();
        let feed = |state| {
            let reader = SampleReader::open(&self.common.model, SampleOptions::default().recognition(true))?;
            let batches = self.common.batches_read_by(reader, &settings.run, false, true, state)?;
            let mut reader = TranscriptReader::new(settings.clone(), batches.state().batches, on);
            Ok(BatchFeed::new(batches, settings.run.batches_per_step, move |batch| reader.batch(batch)))
        };
        self.common.train(&settings, &settings.run, (trainer, &device), feed)
    }
}
