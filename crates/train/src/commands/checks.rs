//! What is refused before any model is loaded.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use qwen3_omni::Device;
use qwen3_omni_train::trainer::{RunSettings, check_unchanged};
use qwen3_omni_train::{Error, Mixture, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::stage::Common;

/// How many batches a step has, for devices to share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepBatches {
    /// As many as `run.batches_per_step`.
    Set,
    /// As many as the model's own answers make.
    OfAnswers,
    /// One.
    One,
    /// Several, each of which begins where the one before it ended.
    InOrder,
}

impl Common {
    /// Refuses what can be refused before minutes of loading: invalid settings of the run, idle devices,
    /// files that are not there, and other settings than those of the run that the folder holds.
    pub(super) fn check<S: Serialize + DeserializeOwned + Default>(
        &self,
        settings: &S,
        run: &RunSettings,
        batches: StepBatches,
    ) -> Result<()> {
        run.schedule()?;
        self.time()?;
        self.check_devices(run, batches)?;
        self.check_data()?;
        check_unchanged(&self.out, settings)
    }

    /// The longest time of the run.
    pub(super) fn time(&self) -> Result<Option<Duration>> {
        let time = |minutes: f64| {
            let refuse = |_| Error::Option { name: "minutes", reason: format!("{minutes}, expected 0 or more") };
            Duration::try_from_secs_f64(minutes * 60.0).map_err(refuse)
        };
        self.minutes.map(time).transpose()
    }

    /// Checks that no device is named twice, and that each has a batch in every step.
    fn check_devices(&self, run: &RunSettings, batches: StepBatches) -> Result<()> {
        let refuse = |reason| Err(Error::Option { name: "device", reason });
        let again = |(at, device): &(usize, &Device)| self.device[..*at].contains(*device);
        if let Some((_, twice)) = self.device.iter().enumerate().find(again) {
            return refuse(format!("{twice} is named twice"));
        }
        let (devices, most) = (self.device.len(), run.batches_per_step);
        match batches {
            StepBatches::Set if devices > most => refuse(format!(
                "{devices} devices, but `run.batches_per_step` is {most}: some would have nothing to do"
            )),
            StepBatches::One if devices > 1 => {
                refuse(format!("{devices}, but a step of this stage has one batch: expected one device"))
            }
            StepBatches::InOrder if devices > 1 => {
                refuse(format!("{devices}, but batches of this stage depend on each other: expected one device"))
            }
            _ => Ok(()),
        }
    }

    fn check_data(&self) -> Result<()> {
        let parts: Vec<(&Path, f64)> = self.data.iter().map(|text| path_and_share(text)).collect();
        for (path, _) in &parts {
            File::open(path).map_err(|source| omni_core::Error::io(path, source))?;
        }
        Mixture::new(&parts.iter().map(|(_, share)| *share).collect::<Vec<_>>()).map(drop)
    }
}

/// Splits `FILE[=SHARE]`; a share is 1 by default. A file whose whole name is there is meant by it.
pub(super) fn path_and_share(text: &str) -> (&Path, f64) {
    match text.rsplit_once('=').and_then(|(path, share)| Some((path, share.parse().ok()?))) {
        Some((path, share)) if !Path::new(text).exists() => (Path::new(path), share),
        _ => (Path::new(text), 1.0),
    }
}
