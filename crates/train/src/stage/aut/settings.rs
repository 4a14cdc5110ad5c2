use serde::{Deserialize, Serialize};

use crate::stage::AugmentSettings;
use crate::trainer::RunSettings;
use crate::{Error, Result};

/// Settings of the audio encoder's training with a text decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutSettings {
    /// Patterns of the trained parameters; those of the decoder begin with `decoder.`.
    pub train: String,
    /// Layers of a decoder that is drawn anew; a quarter of the encoder's by default, and at least two.
    pub layers: Option<usize>,
    /// Attention windows of the encoder in seconds, of which each batch has one.
    pub windows: Vec<usize>,
    /// Weight that each label shares with the whole vocabulary.
    pub label_smoothing: f64,
    /// How sounds are changed.
    pub augment: AugmentSettings,
    /// Settings of the run.
    pub run: RunSettings,
}

impl Default for AutSettings {
    fn default() -> Self {
        let train = "+thinker.audio_tower.* -thinker.audio_tower.proj1.* -thinker.audio_tower.proj2.* +decoder.*";
        Self {
            train: train.into(),
            layers: None,
            windows: vec![1, 2, 4, 8],
            label_smoothing: 0.0,
            augment: AugmentSettings::spec_augment(),
            run: RunSettings { rate: 2e-4, ..RunSettings::default() },
        }
    }
}

impl AutSettings {
    /// Checks the settings that are its own.
    ///
    /// # Errors
    /// [`Error::Option`] naming a setting without sense.
    pub fn validate(&self) -> Result<()> {
        if self.layers.is_some_and(|layers| !(1..=MOST_LAYERS).contains(&layers)) {
            let reason = format!("{}, expected 1 to {MOST_LAYERS}", self.layers.unwrap_or_default());
            return Err(Error::Option { name: "layers", reason });
        }
        if self.windows.is_empty() || self.windows.iter().any(|seconds| !(1..=8).contains(seconds)) {
            let reason = format!("{:?}, expected one or more numbers of seconds from 1 to 8", self.windows);
            return Err(Error::Option { name: "windows", reason });
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            let reason = format!("{}, expected a part from 0 to below 1", self.label_smoothing);
            return Err(Error::Option { name: "label_smoothing", reason });
        }
        self.augment.validate()
    }
}

/// Far beyond any decoder of speech.
const MOST_LAYERS: usize = 1024;
