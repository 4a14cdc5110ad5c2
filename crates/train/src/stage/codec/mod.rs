//! Training of the codec: the vocoder with an encoder and a quantiser of its own, or the vocoder alone on the codes of a given encoder.

mod adversary;
mod coding;
mod fresh;
mod settings;
mod speech_encoder;
mod vocoding;

pub use coding::{Coding, Recordings};
pub use settings::{CodecSettings, DiscriminatorSettings};
pub use speech_encoder::SpeechEncoder;
pub use vocoding::{CodedWave, CodedWaves, Vocoding};

use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::Checkpoint;
use code2wav::Code2Wav;
use omni_core::{Dtype, Place};

use crate::{Error, ParamNames, Result};

/// The vocoder's table of all codebooks.
const CODE_EMBEDDING: &str = "code2wav.code_embedding.weight";

/// Loads the vocoder for training, with fresh values if the settings ask for them; returns the names of its parameters too.
fn vocoder(checkpoint: &Checkpoint, settings: &CodecSettings, device: &Device) -> Result<(Code2Wav, ParamNames)> {
    let names = ParamNames::new(checkpoint.tensors().keys().cloned());
    let vocoder = Code2Wav::from_checkpoint(checkpoint, &Place::Device(device.clone()), Dtype::F32)?;
    let vocoder = match settings.fresh {
        true => names.with_values(vocoder, fresh::values(checkpoint, settings.run.seed, device)?)?,
        false => vocoder,
    };
    Ok((vocoder, names))
}

/// Names of the vocoder's tensors in a checkpoint.
fn vocoder_names(checkpoint: &Checkpoint) -> impl Iterator<Item = &String> {
    checkpoint.tensors().keys().filter(|name| name.starts_with("code2wav."))
}

/// The beginnings of recordings as one tensor `[B, T]`; what is behind the decoded length is not compared.
fn targets<'a>(
    waves: impl Iterator<Item = &'a [f32]>,
    [batch, length]: [usize; 2],
    device: &Device,
) -> Result<Tensor<2>> {
    let mut target = Vec::with_capacity(batch * length);
    for wave in waves {
        let cut = wave.get(..length).ok_or_else(|| {
            Error::Batch(format!("a recording of {} samples for codes that decode to {length}", wave.len()))
        })?;
        target.extend_from_slice(cut);
    }
    Ok(Tensor::from_data(TensorData::new(target, [batch, length]), device))
}
