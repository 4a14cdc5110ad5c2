//! Options of a conversation.

use super::detector::{TurnDetector, VoiceDetector};
use crate::prompt::GenerateOptions;
use crate::session::MelNorm;

/// How a conversation is held.
///
/// ```
/// use qwen3_omni::{ConversationOptions, VoiceDetector};
/// use std::time::Duration;
///
/// let patient = VoiceDetector::new(0.5, Duration::from_millis(64), Duration::from_millis(1200));
/// let options = ConversationOptions::default().detector(patient).interruptible(false);
/// ```
#[must_use]
#[non_exhaustive]
pub struct ConversationOptions {
    /// Options of all answers.
    pub answer: GenerateOptions,
    /// Normalisation of sound that is prefilled before its turn has ended.
    pub mel_norm: MelNorm,
    /// Decides when a person's turn begins and ends.
    pub detector: Box<dyn TurnDetector>,
    /// Whether a person who speaks interrupts the answer. Otherwise their turn is taken up when the answer has been generated.
    pub interruptible: bool,
}

omni_core::setters! { ConversationOptions {
    answer: GenerateOptions,
    mel_norm: MelNorm,
    detector: impl TurnDetector + 'static => Box::new(detector),
    interruptible: bool,
} }

impl Default for ConversationOptions {
    /// [`VoiceDetector`]; answers can be interrupted.
    fn default() -> Self {
        Self {
            answer: GenerateOptions::default(),
            mel_norm: MelNorm::default(),
            detector: Box::new(VoiceDetector::default()),
            interruptible: true,
        }
    }
}

impl std::fmt::Debug for ConversationOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConversationOptions")
            .field("answer", &self.answer)
            .field("mel_norm", &self.mel_norm)
            .field("interruptible", &self.interruptible)
            .finish_non_exhaustive()
    }
}
