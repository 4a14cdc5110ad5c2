//! The codec that is trained: an encoder and a residual quantiser, which are not released, before the released vocoder.

mod config;
mod discriminator;
mod encoder;
mod files;
mod mel;
mod quantizer;

use burn::module::Module;
use burn::tensor::Tensor;
use code2wav::Code2Wav;

pub use config::CodecConfig;
pub(crate) use discriminator::{Discriminator, Judged};
pub use encoder::CodecEncoder;
pub(crate) use files::StoredCodec;
pub use files::{CODEC_CONFIG, CODEC_WEIGHTS, WaveEncoder};
pub(crate) use mel::CodecMel;
pub(crate) use quantizer::{Choice, Learning, ResidualQuantizer};

/// Encoder and vocoder, trained together.
#[derive(Module, Debug)]
pub struct CodecModel {
    pub(crate) encoder: CodecEncoder,
    pub(crate) code2wav: Code2Wav,
}

impl CodecModel {
    /// Latents of segments of one length.
    ///
    /// # Shapes
    /// Log-mel rows `[B, 4 F + 2, M]` → `[B * F, D]`.
    pub(crate) fn latents(&self, mel: Tensor<3>) -> Tensor<2> {
        self.encoder.forward(mel)
    }

    /// Waves of quantised latents, which are the sum of the chosen vectors.
    ///
    /// # Shapes
    /// `[B * F, D]` → `[B, F * samples_per_frame - lookahead]`.
    pub(crate) fn waves(&self, latents: Tensor<2>, frames: usize) -> crate::Result<Tensor<2>> {
        let streams = latents.split(frames, 0);
        Ok(Tensor::stack(self.code2wav.waves_of_means(&streams)?, 0))
    }
}
