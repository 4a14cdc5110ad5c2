use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor};

use super::config::CodecConfig;
use super::encoder::{CodecEncoder, ENCODER, parameters};
use super::mel::CodecMel;
use super::quantizer::ResidualQuantizer;
use crate::random::normal;
use crate::trainer::{read_tensors, write_json, write_shaped};
use crate::{ParamNames, Result};

/// File of an encoder's sizes, beside a checkpoint.
pub const CODEC_CONFIG: &str = "codec-encoder.json";
/// File of an encoder and its codebooks, beside a checkpoint: the released layout has none.
pub const CODEC_WEIGHTS: &str = "codec-encoder.safetensors";
/// Name of all codebooks' vectors, `[Q, K, D]`.
const CODEBOOKS: &str = "codec_quantizer.codebooks";

/// An encoder's sizes and values, as they are on disk.
#[derive(Debug, Clone)]
pub(crate) struct StoredCodec {
    pub(crate) config: CodecConfig,
    /// Flattened parameters by name.
    values: BTreeMap<String, Tensor<1>>,
    /// All vectors; `None` before the quantiser has begun.
    codebooks: Option<Tensor<1>>,
}

impl StoredCodec {
    /// Whether a folder has the files of an encoder.
    pub(crate) fn is_in(folder: &Path) -> bool {
        folder.join(CODEC_CONFIG).is_file()
    }

    /// Draws a fresh encoder; the same seed gives the same values.
    pub(crate) fn fresh(config: CodecConfig, seed: u64, device: &Device) -> Self {
        let values = parameters(&config).into_iter().map(|(name, shape)| {
            let values = match shape[..] {
                // As large as PyTorch's default.
                [output, input] => normal(seed, &name, output * input, (3.0 * input as f64).powf(-0.5)),
                _ => vec![0.0; shape.iter().product()],
            };
            (name, crate::loss::constants(values, device))
        });
        Self { values: values.collect(), config, codebooks: None }
    }

    /// The same encoder for the codebooks of a vocoder, from its code embedding; see [`ResidualQuantizer::table`].
    ///
    /// # Errors
    /// [`crate::Error::Batch`] if the table has other sizes.
    pub(crate) fn with_table(self, table: Option<Tensor<1>>) -> Result<Self> {
        let codebooks = table.map(|table| table / self.config.num_quantizers as f64);
        let stored = Self { codebooks, ..self };
        stored.quantizer()?;
        Ok(stored)
    }

    /// Reads the files of a folder.
    ///
    /// # Errors
    /// [`omni_core::Error::Config`] and [`omni_core::Error::Weights`] naming the file and what is wrong in it.
    pub(crate) fn read(folder: &Path, device: &Device) -> Result<Self> {
        let config = CodecConfig::read(&folder.join(CODEC_CONFIG))?;
        let path = folder.join(CODEC_WEIGHTS);
        let refuse = |reason: String| omni_core::Error::weights(format!("{}: {reason}", path.display()));
        let mut values = read_tensors(&path, device)?;
        let codebooks = values.remove(CODEBOOKS);
        for (name, shape) in parameters(&config) {
            let found = values.get(&name).map(|values| values.dims()[0]);
            if found != Some(shape.iter().product()) {
                let found = found.map_or("absent".to_owned(), |found| format!("there with {found} values"));
                return Err(refuse(format!("tensor `{name}` is {found}, expected {shape:?}")).into());
            }
        }
        let stored = Self { config, values, codebooks };
        stored.quantizer().map_err(|error| refuse(error.to_string()).caused_by(error))?;
        Ok(stored)
    }

    /// Writes the files into a folder: the encoder's parameters, those that are among `trained` as they are there.
    ///
    /// # Errors
    /// [`omni_core::Error::Io`] naming the file.
    pub(crate) fn write(
        folder: &Path,
        config: &CodecConfig,
        (encoder, trained): (&CodecEncoder, &BTreeMap<String, Vec<f32>>),
        codebooks: Option<Tensor<1>>,
    ) -> Result<()> {
        let shapes = parameters(config);
        let own = ParamNames::new(shapes.iter().map(|(name, _)| name.clone())).values(encoder);
        let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
        for (name, shape) in shapes {
            let values = trained.get(&name).cloned().or_else(|| own.get(&name).map(nn::to_f32_vec));
            tensors.insert(name, (shape, values.unwrap_or_default()));
        }
        if let Some(codebooks) = codebooks {
            let shape = vec![config.num_quantizers, config.codebook_size, config.hidden_size];
            tensors.insert(CODEBOOKS.to_owned(), (shape, nn::to_f32_vec(&codebooks)));
        }
        write_shaped(&folder.join(CODEC_WEIGHTS), &tensors)?;
        write_json(&folder.join(CODEC_CONFIG), config)
    }

    /// Copies the files of one folder to another.
    ///
    /// # Errors
    /// [`omni_core::Error::Io`] naming the file.
    pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
        for file in [CODEC_CONFIG, CODEC_WEIGHTS] {
            let (from, to) = (from.join(file), to.join(file));
            // It may be a link to the one that is copied.
            let bytes = std::fs::read(&from).map_err(|error| omni_core::Error::io(&from, error))?;
            if to.exists() {
                std::fs::remove_file(&to).map_err(|error| omni_core::Error::io(&to, error))?;
            }
            std::fs::write(&to, bytes).map_err(|error| omni_core::Error::io(&to, error))?;
        }
        Ok(())
    }

    /// Names of the encoder's parameters.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        parameters(&self.config).into_iter().map(|(name, _)| name)
    }

    /// The encoder; trainable on an autodiff device.
    ///
    /// # Errors
    /// [`crate::Error::Batch`] naming a parameter that it does not have.
    pub(crate) fn encoder(&self, device: &Device) -> Result<CodecEncoder> {
        let encoder = CodecEncoder::new(&self.config, device)?;
        let values = self.values.iter().filter(|(name, _)| name.starts_with(ENCODER));
        let values = values.map(|(name, values)| (name.clone(), values.clone())).collect();
        ParamNames::new(self.names()).with_values(encoder, values)
    }

    /// The quantiser; `None` if it has not begun.
    ///
    /// # Errors
    /// [`crate::Error::Batch`] if the codebooks have other sizes.
    pub(crate) fn quantizer(&self) -> Result<Option<ResidualQuantizer>> {
        self.codebooks.as_ref().map(|vectors| ResidualQuantizer::of_vectors(&self.config, vectors)).transpose()
    }
}

/// Encoder and quantiser that turn recordings into codes.
#[derive(Debug)]
pub struct WaveEncoder {
    config: CodecConfig,
    mel: CodecMel,
    encoder: CodecEncoder,
    quantizer: ResidualQuantizer,
}

/// Frames that are encoded at once, which bounds the memory of a long recording.
const FRAMES_PER_STEP: usize = 256;

impl WaveEncoder {
    /// Loads the encoder that a codec's training wrote beside a checkpoint; `device` is one without gradients.
    ///
    /// # Errors
    /// [`omni_core::Error::Config`] and [`omni_core::Error::Weights`] naming the file and what is wrong in it.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let stored = StoredCodec::read(folder, device)?;
        let quantizer = stored.quantizer()?.ok_or_else(|| {
            let path = folder.join(CODEC_WEIGHTS);
            let reason = format!("{}: there is no `{CODEBOOKS}` yet, expected a later checkpoint", path.display());
            omni_core::Error::weights(reason)
        })?;
        let (mel, encoder) = (CodecMel::new(&stored.config, device), stored.encoder(device)?);
        Ok(Self { config: stored.config, mel, encoder, quantizer })
    }

    /// The sizes.
    pub fn config(&self) -> &CodecConfig {
        &self.config
    }

    /// The vocoder's code embedding, flattened.
    pub(crate) fn table(&self) -> Tensor<1> {
        self.quantizer.table()
    }

    /// Encodes a whole recording at [`CodecConfig::sampling_rate`], its last frame padded with silence.
    ///
    /// # Shapes
    /// `[N]` → `[F, Q]`.
    ///
    /// # Errors
    /// [`omni_core::Error::NotFinite`] if the latents are not.
    pub fn encode(&self, samples: &[f32]) -> Result<Vec<Vec<u32>>> {
        let frames = self.config.frames(samples.len());
        let mut codes = Vec::with_capacity(frames);
        for start in (0..frames).step_by(FRAMES_PER_STEP) {
            let mel = self.mel.rows(samples, start..frames.min(start + FRAMES_PER_STEP));
            let latents = self.encoder.forward(mel.unsqueeze());
            if !latents.clone().sum().into_scalar::<f32>().is_finite() {
                return Err(omni_core::Error::NotFinite { stage: "codec's encoder" }.into());
            }
            codes.extend(self.quantizer.choose(&latents).codes());
        }
        Ok(codes)
    }
}
