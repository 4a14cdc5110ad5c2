//! Sound to codes by the encoder of Mimi, and back to sound by the vocoder of a checkpoint.
//!
//! The released model has no encoder. Its codebooks are reported to be the first sixteen of Mimi's: if they are, speech that went
//! through both is understood as well as before; if they are not, nothing in it is.

use std::path::Path;

use mimi_encoder::MimiEncoder;
use qwen3_omni::checkpoint::Checkpoint;
use qwen3_omni::code2wav::{Code2Wav, SAMPLE_RATE, VocoderRun};
use qwen3_omni::{Dtype, Place};

use crate::error::{Error, Result};

/// Encoder and vocoder.
#[derive(Debug)]
pub struct Codec {
    encoder: MimiEncoder,
    vocoder: Code2Wav,
}

/// Frames that are decoded at a time, which bounds the memory of a long recording.
const FRAMES_PER_STEP: usize = 64;

impl Codec {
    /// Loads the encoder of a checkpoint in the layout of `kyutai/mimi` and the vocoder of a model, which takes its first codebooks.
    ///
    /// # Errors
    /// The errors of the checkpoints; [`Error::Request`] naming a size in which the two differ.
    pub fn open(mimi: &Path, model: &Path, place: &Place) -> Result<Self> {
        let open = |path: &Path| Checkpoint::open(path).map_err(qwen3_omni::Error::from);
        let vocoder = Code2Wav::from_checkpoint(&open(model)?, place, Dtype::F32)?;
        let encoder = MimiEncoder::from_checkpoint(&open(mimi)?, place)?;
        check(&encoder, &vocoder)?;
        Ok(Self { encoder: encoder.with_codebooks(vocoder.codebooks())?, vocoder })
    }

    /// Samples per second of what goes in and comes out.
    pub fn sample_rate(&self) -> u32 {
        SAMPLE_RATE
    }

    /// Encodes a recording and decodes its codes; the result is at most one codec frame shorter than the recording.
    ///
    /// # Errors
    /// Those of encoder and vocoder, which are those of samples or weights that are not finite.
    pub fn recode(&self, samples: &[f32]) -> Result<Vec<f32>> {
        let codes = self.encoder.encode(samples)?;
        let (mut state, mut sound) = (self.vocoder.start(), Vec::with_capacity(samples.len()));
        for frames in codes.chunks(FRAMES_PER_STEP) {
            let run = VocoderRun { state: &mut state, frames };
            sound.extend(self.vocoder.forward(vec![run]).remove(0)?);
        }
        sound.truncate(samples.len());
        Ok(sound)
    }
}

/// Refuses an encoder whose codes the vocoder cannot take.
fn check(encoder: &MimiEncoder, vocoder: &Code2Wav) -> Result<()> {
    let refuse = |what: &str, mimi: usize, expected: String| {
        Err(Error::Request(format!("Mimi has {mimi} {what}, the model's vocoder takes {expected}")))
    };
    if encoder.codebooks() < vocoder.codebooks() {
        return refuse("codebooks", encoder.codebooks(), format!("{} or more", vocoder.codebooks()));
    }
    let sizes = [
        ("codes per codebook", encoder.codebook_size(), vocoder.codebook_size()),
        ("samples per codec frame", encoder.samples_per_frame(), vocoder.samples_per_frame()),
        ("samples per second", encoder.sample_rate(), SAMPLE_RATE as usize),
    ];
    match sizes.into_iter().find(|(_, mimi, vocoder)| mimi != vocoder) {
        Some((what, mimi, vocoder)) => refuse(what, mimi, vocoder.to_string()),
        None => Ok(()),
    }
}
