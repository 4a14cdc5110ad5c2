//! A prepared prompt.

use std::time::Duration;

use media::audio::Mel;
use media::image::Patches;
use media::video::Clip;
use omni_core::Encoded;
use tm_rope::MediaLayout;

use super::message::PartKind;

/// A prepared conversation, ready to be answered.
#[derive(Debug)]
pub struct Prompt {
    pub(crate) ids: Vec<u32>,
    pub(crate) layout: MediaLayout,
    pub(crate) audio: Vec<Feature<Mel>>,
    pub(crate) image: Vec<Feature<Patches>>,
    pub(crate) video: Vec<Feature<Clip>>,
    /// Time that the preparation took.
    pub(crate) preprocessing: Duration,
    pub(super) parts: Vec<PartTokens>,
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

    /// Whether the prompt has any media.
    pub fn has_media(&self) -> bool {
        !self.layout.items.is_empty()
    }
}
