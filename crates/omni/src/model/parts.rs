//! Encoders and vocoder, built in or supplied by the application, and the parts that make speech.

use aut_encoder::AutEncoder;
use burn::tensor::Tensor;
use code2wav::Code2Wav;
use moe_talker::Talker;
use mtp::CodePredictor;
use omni_core::{Encoded, ModalityEncoder, Result, Vocoder};
use vision_encoder::{PixelPatches, VisionEncoder};

/// Polled between pieces of work; true cancels it. Custom encoders are not interrupted.
pub(crate) type Stopped<'a> = &'a (dyn Fn() -> bool + Sync);

pub(crate) struct Encoders {
    pub(crate) audio: AnyAudioEncoder,
    pub(crate) vision: AnyVisionEncoder,
}

impl Encoders {
    /// Whether both are the checkpoint's.
    pub(crate) fn are_builtin(&self) -> bool {
        matches!((&self.audio, &self.vision), (AnyAudioEncoder::Builtin(_), AnyVisionEncoder::Builtin(_)))
    }
}

/// The audio encoder.
#[allow(clippy::large_enum_variant)] // One per model.
pub(crate) enum AnyAudioEncoder {
    /// The checkpoint's encoder.
    Builtin(AutEncoder),
    /// One supplied by the application.
    Custom(Box<dyn ModalityEncoder<Features = Vec<Tensor<2>>>>),
}

/// The vision encoder.
#[allow(clippy::large_enum_variant)] // One per model.
pub(crate) enum AnyVisionEncoder {
    /// The checkpoint's encoder.
    Builtin(VisionEncoder),
    /// One supplied by the application.
    Custom(Box<dyn ModalityEncoder<Features = Vec<PixelPatches>>>),
}

impl AnyAudioEncoder {
    /// Log-mel frames of one attention window, whose rows depend on no other frames. `None` for a custom encoder.
    pub(crate) fn window_frames(&self) -> Option<usize> {
        match self {
            AnyAudioEncoder::Builtin(encoder) => Some(encoder.window_frames()),
            AnyAudioEncoder::Custom(_) => None,
        }
    }

    /// Log-mel frames of one chunk; shorter chunks are padded to the longest of the call. `None` for a custom encoder.
    pub(crate) fn chunk_frames(&self) -> Option<usize> {
        match self {
            AnyAudioEncoder::Builtin(encoder) => Some(encoder.chunk_frames()),
            AnyAudioEncoder::Custom(_) => None,
        }
    }

    pub(crate) fn encode(&self, items: Vec<Tensor<2>>, stopped: Stopped) -> Result<Encoded> {
        match self {
            AnyAudioEncoder::Builtin(encoder) => encoder.encode_until(&items, stopped),
            AnyAudioEncoder::Custom(encoder) => encoder.encode(items),
        }
    }
}

impl AnyVisionEncoder {
    pub(crate) fn encode(&self, items: Vec<PixelPatches>, stopped: Stopped) -> Result<Encoded> {
        match self {
            AnyVisionEncoder::Builtin(encoder) => encoder.encode_until(&items, stopped),
            AnyVisionEncoder::Custom(encoder) => encoder.encode(items),
        }
    }
}

pub(crate) struct SpeechParts {
    pub(crate) talker: Talker,
    pub(crate) code_predictor: CodePredictor,
    pub(crate) vocoder: AnyVocoder,
}

/// The vocoder.
#[allow(clippy::large_enum_variant)] // One per model.
pub(crate) enum AnyVocoder {
    /// The checkpoint's vocoder.
    Builtin(Code2Wav),
    /// One supplied by the application.
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

    /// Samples of a frame that the vocoder makes only with the next frame.
    pub(crate) fn lookahead(&self) -> usize {
        match self {
            AnyVocoder::Builtin(vocoder) => vocoder.lookahead(),
            AnyVocoder::Custom(vocoder) => vocoder.lookahead(),
        }
    }
}
