//! The reply of an answer, put together from the reports of its stages.

use std::time::{Duration, Instant};

use super::report::{TalkerReport, ThinkerReport, VocoderReport};
use crate::model::Model;
use crate::output::{Audio, FinishReason, Pace, PromptTokens, Reply, Speech, SpeechFinish, Spoken, Timings, Usage};
use crate::prompt::Prompt;

/// The data of the reply, collected from the reports of the stages.
pub(super) struct Outcome {
    prompt_tokens: PromptTokens,
    preprocessing: Duration,
    samples_per_frame: usize,
    lookahead: usize,
    sample_rate: u32,
    started: Instant,
    pace: Pace,
    pub(super) thinker: Option<ThinkerReport>,
    pub(super) talker: Option<TalkerReport>,
    pub(super) vocoder: Option<VocoderReport>,
}

impl Outcome {
    pub(super) fn new(model: &Model, prompt: &Prompt, started: Instant) -> Self {
        Self {
            prompt_tokens: prompt.tokens_by_kind(),
            preprocessing: prompt.preprocessing,
            samples_per_frame: model.speech.as_ref().map_or(0, |parts| parts.vocoder.samples_per_frame()),
            lookahead: model.speech.as_ref().map_or(0, |parts| parts.vocoder.lookahead()),
            sample_rate: model.sample_rate(),
            started,
            pace: model.pace.clone(),
            thinker: None,
            talker: None,
            vocoder: None,
        }
    }

    /// Makes the reply when all stages have ended.
    pub(super) fn into_reply(self) -> Reply {
        let Self { prompt_tokens, preprocessing, samples_per_frame, lookahead, sample_rate, started, pace, .. } = self;
        let thinker = self.thinker.unwrap_or_default();
        let (talker, vocoder) = (self.talker.unwrap_or_default(), self.vocoder.unwrap_or_default());
        let timings = Timings {
            preprocessing,
            encoders: thinker.encoders,
            first_text: thinker.first_token,
            first_code: talker.first_code,
            first_audio: vocoder.first_audio,
            thinker: thinker.thinker,
            prefill: thinker.prefill,
            talker: talker.talker,
            code_predictor: talker.code_predictor,
            vocoder: vocoder.vocoder,
            total: started.elapsed(),
        };
        let usage = Usage {
            prompt_tokens: prompt_tokens.total(),
            prompt: prompt_tokens,
            text_tokens: thinker.answer.len(),
            frames: vocoder.codes.len(),
            drafted_codes: talker.drafts.drafted,
            accepted_codes: talker.drafts.accepted,
            audio: Duration::from_secs_f64(vocoder.samples as f64 / f64::from(sample_rate)),
            cached_tokens: thinker.cached_tokens,
            cache_bytes: thinker.cache_bytes + talker.cache_bytes,
        };
        // An answer whose first code is the end code says nothing.
        let finish_reason = match talker.finish_reason {
            _ if vocoder.silent => SpeechFinish::Silence,
            reason => reason.unwrap_or(SpeechFinish::Cancelled),
        };
        let spoken = Spoken {
            text: thinker.spoken.last().and_then(|end| thinker.text.get(..*end)).unwrap_or_default(),
            mask: thinker.mask.as_deref(),
            frames: vocoder.codes.len(),
            loudness: &vocoder.loudness,
            whole: finish_reason.is_whole(),
            pace: pace.get(),
            frame: Duration::from_secs_f64(samples_per_frame as f64 / f64::from(sample_rate)),
        };
        spoken.own_pace().into_iter().for_each(|own| pace.set(own));
        let words = spoken.words();
        let speech = (!vocoder.codes.is_empty()).then(|| Speech {
            audio: Audio { samples: Vec::new(), sample_rate },
            codes: vocoder.codes,
            finish_reason,
            words,
            text_ends: thinker.spoken,
            samples_per_frame,
            lookahead,
        });
        tracing::info!(%usage, %timings, "answered");
        Reply {
            text: thinker.text,
            thinking: thinker.thinking,
            tool_calls: thinker.tool_calls,
            log_probs: thinker.log_probs,
            token_ids: thinker.answer,
            finish_reason: thinker.finish_reason.unwrap_or(FinishReason::Cancelled),
            speech,
            usage,
            timings,
        }
    }
}
