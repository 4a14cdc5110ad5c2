use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use checkpoint::Checkpoint;
use code2wav::{Code2Wav, Code2WavConfig, SAMPLE_RATE};

use super::super::adapters::check_matched;
use super::settings::CodecSettings;
use super::speech_encoder::SpeechEncoder;
use super::{CODE_EMBEDDING, targets, vocoder, vocoder_names};
use crate::data::Segment;
use crate::loss::{WaveLoss, WaveWeights};
use crate::model::StoredCodec;
use crate::trainer::{BatchLoss, Objective, Trainer};
use crate::{Error, Patterns, Result};

/// Training of the vocoder: the wave of given codes against the recording they were made from.
#[derive(Debug)]
pub struct Vocoding {
    loss: WaveLoss,
    weights: WaveWeights,
    /// Folder of the trained encoder that the codes come from.
    codec: Option<PathBuf>,
    /// Whether the vocoder was drawn anew.
    fresh: bool,
    device: Device,
}

/// Codes and the recording they were made from.
#[derive(Debug, Clone)]
pub struct CodedWave {
    /// `[F, Q]`.
    pub codes: Vec<Vec<u32>>,
    /// Samples at 24 kHz; those behind the decoded length are not compared.
    pub wave: Vec<f32>,
}

/// A batch of segments of one length.
#[derive(Debug, Clone)]
pub struct CodedWaves {
    /// The segments, all of the same number of frames.
    pub segments: Vec<CodedWave>,
    /// Where they came from, as `file:line, …`.
    pub origin: String,
}

impl CodedWaves {
    /// Encodes segments.
    ///
    /// # Errors
    /// The errors of [`SpeechEncoder::encode`].
    pub fn of_segments(segments: Vec<Segment>, encoder: &SpeechEncoder) -> Result<Self> {
        let origins: Vec<&str> = segments.iter().map(|segment| segment.origin.as_str()).collect();
        let origin = origins.join(", ");
        let coded = segments
            .into_iter()
            .map(|segment| Ok(CodedWave { codes: encoder.encode(&segment.samples)?, wave: segment.samples }));
        Ok(Self { segments: coded.collect::<Result<_>>()?, origin })
    }
}

impl Vocoding {
    /// Loads a checkpoint for training the vocoder. Returns the trainer before its first step.
    ///
    /// # Errors
    /// The errors of the checkpoint, [`Error::NothingTrained`] for patterns that match nothing, and [`Error::Option`] naming a setting.
    pub fn trainer(directory: &Path, settings: &CodecSettings, device: &Device) -> Result<Trainer<Self>> {
        settings.validate()?;
        let checkpoint = Checkpoint::open(directory)?;
        let device = device.clone().autodiff();
        let trained: Patterns = settings.train.parse()?;
        check_matched(vocoder_names(&checkpoint), &trained)?;
        let (model, names) = vocoder(&checkpoint, settings, &device)?;
        let config: Code2WavConfig = checkpoint.config().section()?;
        settings.check_frames(&config, model.lookahead())?;
        let (model, _) = names.freeze(model, &trained)?;
        let objective = Self {
            loss: WaveLoss::new(SAMPLE_RATE, &device),
            weights: settings.loss,
            codec: None,
            fresh: settings.fresh,
            device,
        };
        Ok(Trainer::new(objective, model, names, &settings.run))
    }

    /// Loads a checkpoint as [`Vocoding::trainer`] does, for the codes of an encoder. The codebooks of a trained one become the vocoder's
    /// code embedding, and its files go with each checkpoint; `folder` is where they lie.
    ///
    /// # Errors
    /// The errors of [`Vocoding::trainer`] and of [`SpeechEncoder::check`].
    pub fn trainer_for(
        (encoder, folder): (&SpeechEncoder, &Path),
        directory: &Path,
        settings: &CodecSettings,
        device: &Device,
    ) -> Result<Trainer<Self>> {
        encoder.check(&Checkpoint::open(directory)?.config().section()?)?;
        let mut trainer = Self::trainer(directory, settings, device)?;
        if let SpeechEncoder::Trained(encoder) = encoder {
            let table = BTreeMap::from([(CODE_EMBEDDING.to_owned(), encoder.table())]);
            trainer.model = trainer.names.with_values(trainer.model, table)?;
            trainer.objective.codec = Some(folder.to_owned());
        }
        Ok(trainer)
    }
}

/// Whether a tensor of the vocoder is set though nothing trains it: its code embedding, which the codebooks give, and each tensor of a
/// vocoder that was drawn anew.
pub(super) fn derives(name: &str, has_codebooks: bool, fresh: bool) -> bool {
    has_codebooks && name == CODE_EMBEDDING || fresh && name.starts_with("code2wav.")
}

impl Objective for Vocoding {
    type Model = Code2Wav;
    type Batch = CodedWaves;

    fn derives(&self, name: &str) -> bool {
        derives(name, self.codec.is_some(), self.fresh)
    }

    fn rows(&self, batch: &CodedWaves) -> usize {
        batch.segments.len()
    }

    fn tokens(&self, batch: &CodedWaves) -> usize {
        batch.segments.iter().map(|segment| segment.codes.len()).sum()
    }

    fn origin(&self, batch: &CodedWaves) -> String {
        batch.origin.clone()
    }

    fn loss(&self, model: &Code2Wav, batch: &CodedWaves) -> Result<BatchLoss> {
        let codes: Vec<Vec<Vec<u32>>> = batch.segments.iter().map(|segment| segment.codes.clone()).collect();
        let frames = codes.first().map_or(0, Vec::len);
        if codes.iter().any(|codes| codes.len() != frames) {
            return Err(Error::Batch("segments of different lengths in one batch of the vocoder".into()));
        }
        let waves = Tensor::stack::<2>(model.waves(&codes)?, 0); // [B, T]
        let recorded = batch.segments.iter().map(|segment| segment.wave.as_slice());
        let found = self.loss.parts(&waves, &targets(recorded, waves.dims(), &self.device)?);
        let sum = found.weighted(&self.weights) * batch.segments.len() as f64;
        Ok(BatchLoss { sum, extra: None, parts: found.values() })
    }

    fn export(&self, folder: &Path, _: &BTreeMap<String, Vec<f32>>) -> Result<()> {
        self.codec.as_ref().map_or(Ok(()), |codec| StoredCodec::copy(codec, folder))
    }
}
