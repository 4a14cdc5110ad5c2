use std::path::PathBuf;

use code2wav::Code2WavConfig;
use serde::{Deserialize, Serialize};

use crate::loss::WaveWeights;
use crate::optim::AdamWConfig;
use crate::trainer::{RunSettings, TrainDtype};
use crate::{Error, Result};

/// Settings of the codec's training. A token of [`RunSettings::tokens_per_batch`] is a codec frame here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CodecSettings {
    /// Patterns of the trained parameters.
    pub train: String,
    /// Whether only the vocoder is trained, on the codes of an encoder that stays as it is.
    pub decoder_only: bool,
    /// Whether only an encoder is trained, for a vocoder that stays as it is: the codebooks are those of its code embedding.
    pub encoder_only: bool,
    /// Folder of the encoder; by default the model's, if it has one.
    pub codec: Option<PathBuf>,
    /// Whether the vocoder begins with random values, and the encoder too, unless `codec` names one.
    pub fresh: bool,
    /// Width of a fresh encoder's layers.
    pub width: usize,
    /// Codec frames of a segment.
    pub frames: usize,
    /// Steps before the latents of a fresh encoder are quantised; with `encoder_only`, they are drawn to the codebooks before.
    pub quantize_after: usize,
    /// Part of the codebooks' moving averages that a step keeps.
    pub decay: f64,
    /// Part of the mean usage below which an entry of a codebook is drawn anew.
    pub dead_below: f64,
    /// Weight of the latents' distance from what they are quantised to.
    pub commitment: f64,
    /// Weights of the distance between waves.
    pub loss: WaveWeights,
    /// Discriminator of spectra; without it, waves are only compared.
    pub discriminator: Option<DiscriminatorSettings>,
    /// Settings of the run.
    pub run: RunSettings,
}

/// Settings of the discriminator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscriminatorSettings {
    /// Part of the steps after which it begins.
    pub after: f64,
    /// Weight of what it says about the vocoder's waves.
    pub weight: f64,
    /// Weight, within that, of the distance between what its layers see in the vocoder's waves and in recordings.
    pub features: f64,
    /// Channels of its layers.
    pub channels: usize,
}

impl Default for CodecSettings {
    fn default() -> Self {
        let optimizer = AdamWConfig { beta1: 0.8, beta2: 0.99, weight_decay: 1e-4, ..AdamWConfig::default() };
        Self {
            train: "+code2wav.* -code2wav.code_embedding.* +codec_encoder.*".into(),
            decoder_only: false,
            encoder_only: false,
            codec: None,
            fresh: false,
            width: 192,
            frames: 12,
            quantize_after: 150,
            decay: 0.97,
            dead_below: 0.03,
            commitment: 0.25,
            loss: WaveWeights::default(),
            discriminator: None,
            run: RunSettings {
                steps: 2500,
                tokens_per_batch: 60,
                rate: 1e-3,
                lowest_rate: 0.03,
                warm_up: 0.02,
                clip: 2.0,
                optimizer,
                ..RunSettings::default()
            },
        }
    }
}

impl Default for DiscriminatorSettings {
    fn default() -> Self {
        Self { after: 0.5, weight: 0.1, features: 2.0, channels: 16 }
    }
}

/// Waves must be longer than half of the longest window that they are compared in.
const LEAST_SAMPLES: usize = 1025;

impl CodecSettings {
    /// Segments of a batch.
    pub fn segments(&self) -> usize {
        (self.run.tokens_per_batch / self.frames.max(1)).max(1)
    }

    /// Checks the length of segments, for a vocoder that decodes `frames` to `frames * samples_per_frame - lookahead` samples.
    ///
    /// # Errors
    /// [`Error::Option`] naming it.
    pub(super) fn check_frames(&self, vocoder: &Code2WavConfig, lookahead: usize) -> Result<()> {
        let samples = self.frames.checked_mul(vocoder.samples_per_frame()).filter(|samples| *samples <= 1 << 30);
        let decoded = samples.map(|samples| samples.saturating_sub(lookahead));
        if decoded.is_none_or(|decoded| decoded < LEAST_SAMPLES) {
            let reason = format!("{}, expected as many as decode to {LEAST_SAMPLES} to 2^30 samples", self.frames);
            return Err(Error::Option { name: "frames", reason });
        }
        Ok(())
    }

    /// Checks the settings that are its own.
    ///
    /// # Errors
    /// [`Error::Option`] naming a setting without sense.
    pub fn validate(&self) -> Result<()> {
        if self.run.dtype != TrainDtype::F32 {
            let reason = "bf16, expected f32: the codec compares spectra of samples".into();
            return Err(Error::Option { name: "run.dtype", reason });
        }
        let alone = [
            ("decoder_only", self.decoder_only),
            ("fresh", self.fresh),
            ("discriminator", self.discriminator.is_some()),
        ];
        if let Some((name, _)) = alone.into_iter().find(|(_, set)| *set && self.encoder_only) {
            return Err(Error::Option { name, reason: "set, expected none beside `encoder_only`".into() });
        }
        if self.decoder_only && self.discriminator.is_some() {
            let reason = "it is for encoder and vocoder together, expected none with `decoder_only`".into();
            return Err(Error::Option { name: "discriminator", reason });
        }
        let mut parts = vec![("decay", self.decay), ("dead_below", self.dead_below)];
        let mut weights = vec![
            ("commitment", self.commitment),
            ("loss.linear", self.loss.linear),
            ("loss.log", self.loss.log),
            ("loss.mel", self.loss.mel),
            ("loss.wave", self.loss.wave),
        ];
        if let Some(DiscriminatorSettings { after, weight, features, channels }) = self.discriminator {
            parts.push(("discriminator.after", after));
            weights.extend([("discriminator.weight", weight), ("discriminator.features", features)]);
            if !(1..=1 << 12).contains(&channels) {
                let reason = format!("{channels}, expected 1 to 4096");
                return Err(Error::Option { name: "discriminator.channels", reason });
            }
        }
        if let Some((name, part)) = parts.into_iter().find(|(_, part)| !(0.0..=1.0).contains(part)) {
            return Err(Error::Option { name, reason: format!("{part}, expected a part between 0 and 1") });
        }
        match weights.into_iter().find(|(_, weight)| !(*weight >= 0.0 && weight.is_finite())) {
            Some((name, weight)) => Err(Error::Option { name, reason: format!("{weight}, expected 0 or more") }),
            None => Ok(()),
        }
    }
}
