//! What the stages of an answer tell its stream.

use std::time::Duration;

use mtp::DraftCounts;
use omni_core::Error;

use crate::output::{Event, FinishReason, Loudness, SpeechFinish, TokenLogProbs, ToolCall};

/// A message from a stage to the stream.
pub(crate) enum Report {
    Event(Event),
    Thinker(Box<ThinkerReport>),
    Talker(TalkerReport),
    Vocoder(VocoderReport),
    Failed(Error),
}

/// The report of the thinker when it ends.
#[derive(Debug, Default)]
pub(crate) struct ThinkerReport {
    pub(crate) answer: Vec<u32>,
    pub(crate) text: String,
    pub(crate) thinking: Option<String>,
    pub(crate) tool_calls: Vec<ToolCall>,
    /// One for each token of the answer, if they are wanted.
    pub(crate) log_probs: Vec<TokenLogProbs>,
    pub(crate) finish_reason: Option<FinishReason>,
    /// Where a stop string begins in the text.
    pub(super) cut: Option<usize>,
    /// Byte offset in [`ThinkerReport::text`] at which the text of each spoken id ends.
    pub(crate) spoken: Vec<usize>,
    /// For each byte of the text, whether it is spoken; `None` if all of it is.
    pub(crate) mask: Option<Vec<bool>>,
    pub(crate) encoders: Duration,
    /// Time of prefill and decode, without the encoders.
    pub(crate) thinker: Duration,
    /// Time of prefill, up to the first token.
    pub(crate) prefill: Duration,
    /// Time from the request to the first token.
    pub(crate) first_token: Duration,
    pub(crate) cache_bytes: usize,
    /// Tokens of the prompt that the prefix cache held.
    pub(crate) cached_tokens: usize,
}

/// The report of the talker when it ends.
#[derive(Debug, Default)]
pub(crate) struct TalkerReport {
    /// `None` if there was nothing to say.
    pub(crate) finish_reason: Option<SpeechFinish>,
    /// Time from the first word to the first code.
    pub(crate) first_code: Duration,
    /// Time without the code predictor.
    pub(crate) talker: Duration,
    pub(crate) code_predictor: Duration,
    pub(crate) drafts: DraftCounts,
    pub(crate) cache_bytes: usize,
}

/// The report of the vocoder when it ends.
#[derive(Debug, Default)]
pub(crate) struct VocoderReport {
    /// Codes of the frames that were decoded.
    pub(crate) codes: Vec<Vec<u32>>,
    pub(crate) samples: usize,
    pub(crate) loudness: Loudness,
    /// Time from the request to the first piece of sound.
    pub(crate) first_audio: Option<Duration>,
    pub(crate) vocoder: Duration,
    /// Whether the guard against silence stopped the speech.
    pub(crate) silent: bool,
}
