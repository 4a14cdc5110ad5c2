//! A loaded model, which all answers share.

mod parts;
mod settings;

use burn::tensor::Device;
use media::image::PixelBounds;
use moe_thinker::Thinker;
use omni_core::Dtype;

pub(crate) use parts::{AnyAudioEncoder, AnyVisionEncoder, AnyVocoder, Encoders, SpeechParts, Stopped};
pub(crate) use settings::GenerationConfig;
pub use settings::image_bounds;

use crate::config::OmniConfig;
use crate::output::Pace;
use crate::prompt::{ChatTemplate, PromptModel, Tokenizer};
use crate::schedule::{Admission, Batches, CpuPool, Gate};

pub(crate) struct Model {
    pub(crate) config: OmniConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: ChatTemplate,
    pub(crate) generation: GenerationConfig,
    /// Bounds of image sizes if the options have none.
    pub(crate) image_bounds: PixelBounds,
    pub(crate) device: Device,
    /// Number type of the tensors that pass between the crates.
    pub(crate) dtype: Dtype,
    pub(crate) thinker: Thinker,
    pub(crate) encoders: Option<Encoders>,
    pub(crate) speech: Option<SpeechParts>,
    pub(crate) batches: Batches,
    pub(crate) admission: Admission,
    /// Held by the answer that is encoding its media.
    pub(crate) encoding: Gate,
    pub(crate) pool: CpuPool,
    /// How fast its voice speaks.
    pub(crate) pace: Pace,
}

impl Model {
    /// Runs a computation on the threads of this model. It must not wait for another stage, which may need the same threads.
    pub(crate) fn compute<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.pool.run(f)
    }

    /// Samples per second of speech.
    pub(crate) fn sample_rate(&self) -> u32 {
        self.speech.as_ref().map_or(code2wav::SAMPLE_RATE, |parts| parts.vocoder.sample_rate())
    }

    /// Collects what the preparation of a prompt has to know of this model.
    pub(crate) fn for_prompts(&self) -> PromptModel<'_> {
        PromptModel {
            config: &self.config,
            tokenizer: &self.tokenizer,
            template: &self.template,
            image_bounds: self.image_bounds,
            device: &self.device,
            dtype: self.dtype,
            context_length: self.thinker.context_length(),
            has_encoders: self.encoders.is_some(),
            end_ids: self.generation.end_ids(),
        }
    }
}
