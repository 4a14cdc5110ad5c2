//! A prepared prompt.

use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{DType, Device, Tensor};
use media::audio::Mel;
use media::image::Patches;
use media::video::Clip;
use moe_talker::SpeakOptions;
use omni_core::{Dtype, Encoded, SamplingOptions};
use tm_rope::MediaLayout;

use super::hook::Hook;
use super::message::PartKind;
use super::options::GenerateOptions;
use crate::output::PromptTokens;

/// A request: a conversation that was read and counted, and the options it is answered with, checked and planned.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # let chat = [qwen3_omni::Message::user().image("a.png").image("b.png").text("Which is older?")];
/// for part in omni.prompt(&chat, &Default::default())?.parts() {
///     println!("message {}, part {}: {} tokens of {}", part.message, part.part, part.tokens, part.kind.name());
/// }
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug)]
pub struct Prompt {
    pub(crate) ids: Vec<u32>,
    pub(crate) layout: MediaLayout,
    /// In order of appearance, as in the layout.
    pub(crate) media: Vec<Media>,
    pub(crate) options: Arc<GenerateOptions>,
    /// Ids of the given text that the answer begins with.
    pub(crate) given: Vec<u32>,
    /// The application's hook for this answer.
    pub(crate) hook: Option<Hook>,
    /// `None` for text alone.
    pub(crate) speech: Option<SpeechPlan>,
    /// Time that the preparation took.
    pub(crate) preprocessing: Duration,
    pub(super) parts: Vec<PartTokens>,
}

/// The settings of the speech of an answer.
#[derive(Debug, Clone)]
pub(crate) struct SpeechPlan {
    pub(crate) speaker: u32,
    pub(crate) speak: SpeakOptions,
    /// Sampling of the residual codes.
    pub(crate) residual_sampling: SamplingOptions,
}

/// One item of media. The sound of a video is an item of its own, behind it.
#[derive(Debug)]
pub(crate) enum Media {
    Audio(Feature<Mel>),
    Image(Feature<Patches>),
    Video(Feature<Clip>),
}

/// A media item: the input of the model's encoder, or the rows of a custom one.
#[derive(Debug)]
pub(crate) enum Feature<T> {
    Raw(T),
    Encoded(Box<Encoded>),
}

/// Token count of one part of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartTokens {
    /// Number of the message, from 1.
    pub message: usize,
    /// Number of the part in its message, from 1.
    pub part: usize,
    /// Kind of the part.
    pub kind: PartKind,
    /// Tokens of the part, without those that open and close it. A video's sound is included.
    pub tokens: usize,
}

impl Prompt {
    /// Number of tokens, those of the chat template included.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Token ids with expanded placeholders, as the thinker reads them.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Token counts of the parts.
    pub fn parts(&self) -> &[PartTokens] {
        &self.parts
    }

    /// Tokens of the prompt by kind.
    pub fn tokens_by_kind(&self) -> PromptTokens {
        let of = |kind| self.parts.iter().filter(|part| part.kind == kind).map(|part| part.tokens).sum();
        let [audio, image, video] = [PartKind::Audio, PartKind::Image, PartKind::Video].map(of);
        PromptTokens { text: self.tokens().saturating_sub(audio + image + video), audio, image, video }
    }

    /// The options that the prompt was made with and is answered with.
    pub fn options(&self) -> &GenerateOptions {
        &self.options
    }

    /// The items of sound, in order.
    pub(crate) fn audio(&self) -> impl Iterator<Item = &Feature<Mel>> {
        self.media.iter().filter_map(|item| if let Media::Audio(item) = item { Some(item) } else { None })
    }

    /// The images, in order.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Feature<Patches>> {
        self.media.iter().filter_map(|item| if let Media::Image(item) = item { Some(item) } else { None })
    }

    /// The videos, in order.
    pub(crate) fn videos(&self) -> impl Iterator<Item = &Feature<Clip>> {
        self.media.iter().filter_map(|item| if let Media::Video(item) = item { Some(item) } else { None })
    }

    /// Whether the prompt has any media.
    pub fn has_media(&self) -> bool {
        !self.layout.items.is_empty()
    }
}

/// Brings an application's rows to where the thinker takes them, in its number type.
pub(crate) fn on_device(encoded: &Encoded, device: &Device, dtype: Dtype) -> Encoded {
    let here = |rows: &Tensor<2>| rows.clone().to_device(device).cast(DType::from(dtype));
    Encoded {
        embeds: here(&encoded.embeds),
        spans: encoded.spans.clone(),
        deepstack: encoded.deepstack.iter().map(here).collect(),
    }
}
