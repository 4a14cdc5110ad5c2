use std::path::Path;

use code2wav::{Code2WavConfig, SAMPLE_RATE};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Sizes of the codec's encoder and quantiser: the file `codec-encoder.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodecConfig {
    model_type: String,
    /// Samples per second.
    pub sampling_rate: u32,
    /// Samples per codec frame.
    pub samples_per_frame: usize,
    /// Width of the encoder's layers.
    pub width: usize,
    /// Width of latents and of the codebooks' vectors: that of the vocoder's code embedding.
    pub hidden_size: usize,
    /// Codebooks `Q`.
    pub num_quantizers: usize,
    /// Codes per codebook.
    pub codebook_size: usize,
}

/// The encoder's kind, in its config.
pub(super) const MODEL_TYPE: &str = "qwen3_omni_codec_encoder";
/// Log-mel rows per codec frame.
pub(super) const ROWS_PER_FRAME: usize = 4;
/// Most values of one matrix of the encoder, or of all codebooks: above it, a size of the config is wrong.
const MOST_VALUES: usize = 1 << 31;

impl CodecConfig {
    /// Sizes of an encoder for a vocoder.
    ///
    /// # Errors
    /// [`Error::Option`] for a width of 0, and [`omni_core::Error::Config`] for a vocoder whose frames have no whole number of mel rows.
    pub fn for_vocoder(vocoder: &Code2WavConfig, width: usize) -> Result<Self> {
        let config = Self {
            model_type: MODEL_TYPE.into(),
            sampling_rate: SAMPLE_RATE,
            samples_per_frame: vocoder.samples_per_frame(),
            width,
            hidden_size: vocoder.hidden_size,
            num_quantizers: vocoder.num_quantizers,
            codebook_size: vocoder.codebook_size,
        };
        if width == 0 {
            return Err(Error::Option { name: "width", reason: "0, expected 1 or more".into() });
        }
        config.fault().map_or(Ok(config), |reason| Err(omni_core::Error::config(reason).into()))
    }

    /// Reads the config file of an encoder.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let refuse = |reason: String| omni_core::Error::config(format!("{}: {reason}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| omni_core::Error::io(path, error))?;
        let config: Self = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
        if config.model_type != MODEL_TYPE {
            return Err(refuse(format!("model_type is `{}`, expected `{MODEL_TYPE}`", config.model_type)).into());
        }
        config.fault().map_or(Ok(config), |reason| Err(refuse(reason).into()))
    }

    /// What no encoder can have.
    fn fault(&self) -> Option<String> {
        let sizes = [
            ("sampling_rate", self.sampling_rate as usize),
            ("samples_per_frame", self.samples_per_frame),
            ("width", self.width),
            ("hidden_size", self.hidden_size),
            ("num_quantizers", self.num_quantizers),
            ("codebook_size", self.codebook_size),
        ];
        let out_of_range = sizes.iter().find(|(_, size)| !(1..=1 << 24).contains(size));
        let values = [
            self.width.saturating_mul(self.width.max(self.hidden_size)).saturating_mul(4),
            self.num_quantizers.saturating_mul(self.codebook_size).saturating_mul(self.hidden_size),
        ];
        match out_of_range {
            Some((name, size)) => Some(format!("{name} is {size}, expected 1 to 2^24")),
            None if values.iter().any(|values| *values > MOST_VALUES) => {
                Some("the sizes multiply to more than 2^31 values of one tensor".into())
            }
            None if !self.samples_per_frame.is_multiple_of(ROWS_PER_FRAME) => {
                let samples = self.samples_per_frame;
                Some(format!("frames of {samples} samples, expected a multiple of {ROWS_PER_FRAME}"))
            }
            None => None,
        }
    }

    /// Names the first size in which the encoder differs from a vocoder.
    pub(crate) fn difference(&self, vocoder: &Code2WavConfig) -> Option<String> {
        let sizes = [
            ("codebooks", self.num_quantizers, vocoder.num_quantizers),
            ("codes per codebook", self.codebook_size, vocoder.codebook_size),
            ("samples per frame", self.samples_per_frame, vocoder.samples_per_frame()),
            ("samples per second", self.sampling_rate as usize, SAMPLE_RATE as usize),
            ("values per latent", self.hidden_size, vocoder.hidden_size),
        ];
        let differing = sizes.into_iter().find(|(_, encoder, vocoder)| encoder != vocoder);
        differing.map(|(what, encoder, vocoder)| format!("the encoder has {encoder} {what}, the vocoder {vocoder}"))
    }

    /// Codec frames of a recording with this number of samples; the last frame is padded with silence.
    pub fn frames(&self, samples: usize) -> usize {
        samples.div_ceil(self.samples_per_frame)
    }
}
