use burn::tensor::Tensor;
use code2wav::{Chunking, Code2Wav, VocoderProbe, VocoderRun};
use omni_core::{Error, Result};

use super::case::{Case, STATES};
use super::model::Model;

/// Compares the output of every box of the vocoder for which the case has a tensor.
struct Parts<'a>(&'a mut Case);

impl VocoderProbe for Parts<'_> {
    fn part(&mut self, name: &str, index: usize, output: &Tensor<2>) {
        let name = match name {
            "upsample_a" => format!("upsample_{index}_a"),
            "upsample_b" => format!("upsample_{index}_b"),
            "layer" | "decoder" => format!("{name}_{index}"),
            other => other.to_owned(),
        };
        self.0.compare(&name, output.clone(), STATES);
    }
}

/// Loads the vocoder, and the frames `[F, Q]` of a case of one row.
fn load(model: &Model, case: &mut Case) -> Result<(Code2Wav, Vec<Vec<u32>>)> {
    let vocoder = Code2Wav::from_checkpoint(&model.checkpoint, &model.place, model.dtype)?;
    let [batch, codebooks, frames] = case.dims("codes")?;
    if batch != 1 {
        return Err(Error::Request(format!("`codes` has {batch} rows, expected 1")));
    }
    let codes = case.ints("codes")?;
    let frame = |frame| (0..codebooks).map(|book| codes[book * frames + frame] as u32).collect();
    Ok((vocoder, (0..frames).map(frame).collect()))
}

/// Compares a decode of all frames in one pass.
pub(super) fn whole(model: &Model, case: &mut Case) -> Result<()> {
    let (vocoder, codes) = load(model, case)?;
    let run = VocoderRun { state: &mut vocoder.start(), frames: &codes };
    let samples = vocoder.forward_with(run, &mut Parts(case))?;
    case.compare_values("wav", &samples, &[1, samples.len()], STATES);
    Ok(())
}

/// Compares the reference's chunked decode; tensors named `wav_first{F}_chunk{C}_context{K}` have other sizes.
pub(super) fn chunked(model: &Model, case: &mut Case) -> Result<()> {
    let (vocoder, codes) = load(model, case)?;
    let samples = vocoder.decode_chunked(&codes, Chunking::default())?;
    case.compare_values("wav", &samples, &[1, samples.len()], STATES);
    for name in case.names() {
        let Some((first, chunking)) = sizes(&name) else { continue };
        let samples = vocoder.decode_chunked(&codes[..first.min(codes.len())], chunking)?;
        case.compare_values(&name, &samples, &[1, samples.len()], STATES);
    }
    Ok(())
}

fn sizes(name: &str) -> Option<(usize, Chunking)> {
    let (first, rest) = name.strip_prefix("wav_first")?.split_once("_chunk")?;
    let (frames, context) = rest.split_once("_context")?;
    let chunking = Chunking { frames: frames.parse().ok()?, left_context: context.parse().ok()? };
    Some((first.parse().ok()?, chunking))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_read_from_the_name() {
        let expected = Chunking { frames: 12, left_context: 5 };
        assert_eq!(sizes("wav_first40_chunk12_context5"), Some((40, expected)));
        assert_eq!(sizes("wav"), None);
    }
}
