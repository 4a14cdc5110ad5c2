use burn::tensor::{Int, Tensor};
use checkpoint::Component;
use code2wav::{Chunking, Code2Wav, VocoderProbe};
use omni_core::{Result, Stage};

use super::Model;
use super::case::{Case, STATES};

/// Compares every part the case has a tensor for.
struct Parts<'a>(&'a mut Case);

impl VocoderProbe for Parts<'_> {
    fn part(&mut self, name: &str, index: usize, output: &Tensor<3>) {
        let name = match name {
            "upsample_a" => format!("upsample_{index}_a"),
            "upsample_b" => format!("upsample_{index}_b"),
            "layer" | "decoder" => format!("{name}_{index}"),
            other => other.to_owned(),
        };
        self.0.compare(&name, output.clone(), STATES);
    }
}

fn load(model: &Model, case: &mut Case) -> Result<(Code2Wav, Tensor<3, Int>)> {
    let vocoder = Code2Wav::load(&model.checked(Component::Code2Wav)?, model.config())?;
    Ok((vocoder, case.int_tensor("codes", &model.device)?))
}

/// All frames in one pass.
pub(super) fn whole(model: &Model, case: &mut Case) -> Result<()> {
    let (vocoder, codes) = load(model, case)?;
    let samples = vocoder.run(&mut vocoder.start(), codes, &mut Parts(case));
    case.compare("wav", samples, STATES);
    Ok(())
}

/// The reference's chunks; `wav_first{F}_chunk{C}_context{K}` names other sizes.
pub(super) fn chunked(model: &Model, case: &mut Case) -> Result<()> {
    let (vocoder, codes) = load(model, case)?;
    case.compare("wav", vocoder.decode_chunked(codes.clone(), Chunking::default()), STATES);
    for name in case.names() {
        let Some((first, chunking)) = sizes(&name) else { continue };
        let first = first.min(codes.dims()[2]);
        case.compare(&name, vocoder.decode_chunked(codes.clone().narrow(2, 0, first), chunking), STATES);
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
