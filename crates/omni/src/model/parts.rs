//! The parts that can be replaced by those of third parties, and the parts that speak.

use aut_encoder::AutEncoder;
use burn::tensor::Tensor;
use code2wav::Code2Wav;
use moe_talker::Talker;
use mtp::CodePredictor;
use omni_core::{Encoded, ModalityEncoder, Result, Vocoder};
use vision_encoder::{PixelPatches, VisionEncoder};

pub(crate) struct Encoders {
    pub(crate) audio: AnyAudioEncoder,
    pub(crate) vision: AnyVisionEncoder,
}

/// What hears.
#[allow(clippy::large_enum_variant)] // One per model.
pub(crate) enum AnyAudioEncoder {
    /// The checkpoint's own encoder.
    Builtin(AutEncoder),
    /// A third party's.
    Custom(Box<dyn ModalityEncoder<Features = Vec<Tensor<2>>>>),
}

/// What sees.
#[allow(clippy::large_enum_variant)] // One per model.
pub(crate) enum AnyVisionEncoder {
    /// The checkpoint's own encoder.
    Builtin(VisionEncoder),
    /// A third party's.
    Custom(Box<dyn ModalityEncoder<Features = Vec<PixelPatches>>>),
}

impl AnyAudioEncoder {
    /// Log-mel frames of one attention window, whose rows depend on no others; not known of a third party's encoder.
    pub(crate) fn window_frames(&self) -> Option<usize> {
        match self {
            AnyAudioEncoder::Builtin(encoder) => Some(encoder.window_frames()),
            AnyAudioEncoder::Custom(_) => None,
        }
    }

    /// Log-mel frames of one chunk; shorter ones are padded to the longest of the call. Of a third party's encoder all of the sound.
    pub(crate) fn chunk_frames(&self) -> Option<usize> {
        match self {
            AnyAudioEncoder::Builtin(encoder) => Some(encoder.chunk_frames()),
            AnyAudioEncoder::Custom(_) => None,
        }
    }

    pub(crate) fn encode(&self, items: Vec<Tensor<2>>) -> Result<Encoded> {
        match self {
            AnyAudioEncoder::Builtin(encoder) => encoder.encode(items),
            AnyAudioEncoder::Custom(encoder) => encoder.encode(items),
        }
    }
}

impl AnyVisionEncoder {
    pub(crate) fn encode(&self, items: Vec<PixelPatches>) -> Result<Encoded> {
        match self {
            AnyVisionEncoder::Builtin(encoder) => encoder.encode(items),
            AnyVisionEncoder::Custom(encoder) => encoder.encode(items),
        }
    }
}

pub(crate) struct SpeechParts {
    pub(crate) talker: Talker,
    pub(crate) code_predictor: CodePredictor,
    pub(crate) vocoder: AnyVocoder,
}

/// What makes sound of frames.
#[allow(clippy::large_enum_variant)] // One per model.
pub(crate) enum AnyVocoder {
    /// The checkpoint's own vocoder.
    Builtin(Code2Wav),
    /// A third party's.
    Custom(Box<dyn Vocoder>),
}

impl AnyVocoder {
    pub(crate) fn sample_rate(&self) -> u32 {
        match self {
            AnyVocoder::Builtin(_) => code2wav::SAMPLE_RATE,
            AnyVocoder::Custom(vocoder) => vocoder.sample_rate(),
        }
    }

    pub(crate) fn samples_per_frame(&self) -> usize {
        match self {
            AnyVocoder::Builtin(vocoder) => vocoder.samples_per_frame(),
            AnyVocoder::Custom(vocoder) => vocoder.samples_per_frame(),
        }
    }

    /// Samples of a frame that come only with the next one.
    pub(crate) fn lookahead(&self) -> usize {
        match self {
            AnyVocoder::Builtin(vocoder) => vocoder.lookahead(),
            AnyVocoder::Custom(vocoder) => vocoder.lookahead(),
        }
    }
}
