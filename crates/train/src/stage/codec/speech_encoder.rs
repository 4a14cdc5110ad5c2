use std::path::Path;

use checkpoint::Checkpoint;
use code2wav::Code2WavConfig;
use mimi_encoder::MimiEncoder;
use omni_core::Place;

use crate::model::{CODEC_CONFIG, StoredCodec, WaveEncoder};
use crate::{Error, Result};

/// An encoder of recordings to codes: one that was trained here, or that of Mimi.
#[derive(Debug)]
pub enum SpeechEncoder {
    /// The files beside a checkpoint of a codec's run.
    Trained(Box<WaveEncoder>),
    /// A checkpoint in the layout of `kyutai/mimi`.
    Mimi(Box<MimiEncoder>),
}

impl SpeechEncoder {
    /// Loads the encoder of a folder; `codebooks` is the number of Mimi's first codebooks that are used, which a trained encoder must
    /// have.
    ///
    /// # Errors
    /// The errors of the files; [`Error::Option`] for another number of codebooks than there are, or none for Mimi.
    pub fn open(folder: &Path, codebooks: Option<usize>, place: &Place) -> Result<Self> {
        let refuse = |reason: String| Error::Option { name: "codebooks", reason };
        if StoredCodec::is_in(folder) {
            let encoder = WaveEncoder::open(folder, place.device())?;
            let found = encoder.config().num_quantizers;
            return match codebooks.filter(|asked| *asked != found) {
                Some(asked) => Err(refuse(format!(
                    "{asked}, expected {found}, the number of codebooks of the codec in {}",
                    folder.display()
                ))),
                None => Ok(Self::Trained(Box::new(encoder))),
            };
        }
        let checkpoint = Checkpoint::open(folder)?;
        let is_mimi = checkpoint.config().get("model_type").is_some_and(|kind| kind == "mimi");
        if !is_mimi {
            let reason = format!("{}: expected {CODEC_CONFIG}, or a checkpoint of Mimi", folder.display());
            return Err(Error::Option { name: "codec", reason });
        }
        let codebooks =
            codebooks.ok_or_else(|| refuse("none, expected how many of Mimi's codebooks are used".into()))?;
        let encoder = MimiEncoder::from_checkpoint(&checkpoint, place)?.with_codebooks(codebooks)?;
        Ok(Self::Mimi(Box::new(encoder)))
    }

    /// Samples per second.
    pub fn sample_rate(&self) -> u32 {
        match self {
            Self::Trained(encoder) => encoder.config().sampling_rate,
            Self::Mimi(encoder) => encoder.sample_rate() as u32,
        }
    }

    /// Checks that a vocoder takes the codes.
    ///
    /// # Errors
    /// [`Error::Option`] naming the size that differs.
    pub fn check(&self, vocoder: &Code2WavConfig) -> Result<()> {
        let difference = match self {
            Self::Trained(encoder) => encoder.config().difference(vocoder),
            Self::Mimi(encoder) => {
                let sizes = [
                    ("codebooks", encoder.codebooks(), vocoder.num_quantizers),
                    ("codes per codebook", encoder.codebook_size(), vocoder.codebook_size),
                    ("samples per frame", encoder.samples_per_frame(), vocoder.samples_per_frame()),
                    ("samples per second", encoder.sample_rate(), code2wav::SAMPLE_RATE as usize),
                ];
                let differing = sizes.into_iter().find(|(_, mimi, vocoder)| mimi != vocoder);
                differing.map(|(what, mimi, vocoder)| format!("Mimi has {mimi} {what}, the vocoder {vocoder}"))
            }
        };
        difference.map_or(Ok(()), |reason| Err(Error::Option { name: "codec", reason }))
    }

    /// Encodes a whole recording, its last frame padded with silence.
    ///
    /// # Shapes
    /// `[N]` → `[F, Q]`.
    ///
    /// # Errors
    /// The errors of the encoder, which are those of weights or samples that are not finite.
    pub fn encode(&self, samples: &[f32]) -> Result<Vec<Vec<u32>>> {
        match self {
            Self::Trained(encoder) => encoder.encode(samples),
            Self::Mimi(encoder) => Ok(encoder.encode(samples)?),
        }
    }
}
