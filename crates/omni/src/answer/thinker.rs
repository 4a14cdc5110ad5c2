use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Sender;
use burn::tensor::Tensor;
use moe_thinker::{ThinkerInput, ThinkerState};
use nn::Sampler;
use nn::sampler::Suppressed;
use omni_core::{Positions, Result};

use super::reasoning::ReasoningSplitter;
use super::stage::{Report, StageContext, Word};
use crate::model::Model;
use crate::output::FinishReason;
use crate::prefill::{PrefillRequest, Prefilled, PrefixCache, ThinkerPrefix, TokenKey, prefill};
use crate::prompt::{GenerateOptions, LastWord, Prompt};
use crate::schedule::{Slot, ThinkerDone, ThinkerJob, forward_thinker_batch};

/// The thinker: reads the prompt, writes the text, and passes on what is to be spoken.
pub(crate) struct ThinkerStage {
    pub(crate) context: StageContext,
    pub(crate) model: Arc<Model>,
    pub(crate) options: Arc<GenerateOptions>,
    pub(crate) prompt: Prompt,
    /// To the talker, if there is one.
    pub(crate) words: Option<Sender<Word>>,
    /// The session's prefix cache, and the digests of the prompt's contents.
    pub(crate) prefix_cache: Option<(PrefixCache, Vec<u64>)>,
}

/// What the thinker made.
#[derive(Debug, Default)]
pub(crate) struct ThinkerReport {
    pub(crate) answer: Vec<u32>,
    pub(crate) text: String,
    pub(crate) thinking: Option<String>,
    pub(crate) finish_reason: Option<FinishReason>,
    /// For each id that was passed on: where its text ends in [`ThinkerReport::text`], in bytes.
    pub(crate) spoken: Vec<usize>,
    pub(crate) encoders: Duration,
    /// All the thinker did, encoders excluded.
    pub(crate) thinker: Duration,
    /// The part of it for the prompt and the first token.
    pub(crate) prefill: Duration,
    /// From the request to the first token.
    pub(crate) first_token: Duration,
    pub(crate) cache_bytes: usize,
    /// Tokens of the prompt that were cached by earlier turns.
    pub(crate) cached_tokens: usize,
}

/// The thinker between two tokens.
struct Decoding {
    state: ThinkerState,
    sampler: Sampler,
    delta: f32,
    next: u32,
    /// What the session will know the state by.
    tokens: Vec<TokenKey>,
    /// `[M, D]`: states of the accepted layer at the prompt's media.
    tap: Option<Tensor<2>>,
}

impl ThinkerStage {
    pub(crate) fn run(mut self) -> Result<()> {
        let mut report = ThinkerReport::default();
        let mut splitter =
            ReasoningSplitter::new(&self.model.tokenizer, self.prompt.ids(), self.options.starts_thinking);
        if self.context.signals.stopped() {
            report.finish_reason = Some(FinishReason::Cancelled);
        } else {
            let Some(mut decoding) = self.read_prompt(&mut report)? else {
                report.finish_reason = Some(FinishReason::Cancelled);
                return self.finish(splitter, report);
            };
            let mut pending = None;
            let model = self.model.clone();
            let mut slot = model.batches.thinker_decode.slot();
            while self.take_token(&decoding, &mut splitter, &mut report, &mut pending) {
                decoding = self.next_token(decoding, &mut slot, &mut report)?;
            }
            drop(slot);
            self.release(&mut pending, &report);
            let rest = splitter.finish();
            rest.into_iter().for_each(|event| self.context.event(event));
            report.cache_bytes = decoding.state.bytes();
            self.keep(decoding, &report.answer);
        }
        self.finish(splitter, report)
    }

    fn finish(mut self, splitter: ReasoningSplitter, mut report: ThinkerReport) -> Result<()> {
        // The talker takes this for the end of the text.
        drop(self.words.take());
        let (thinking, text) = splitter.texts(&self.model.tokenizer, &report.answer);
        (report.thinking, report.text) = (thinking, text);
        self.context.report(Report::Thinker(Box::new(report)));
        Ok(())
    }

    /// `None` if the answer was cancelled meanwhile.
    fn read_prompt(&mut self, report: &mut ThinkerReport) -> Result<Option<Decoding>> {
        let _exclusive = self.context.signals.exclusive();
        let span = tracing::info_span!("thinker_prompt", tokens = self.prompt.tokens()).entered();
        let started = Instant::now();
        let end = self.prompt.tokens();
        let prefix_cache = self.prefix_cache.as_ref().map(|(prefix_cache, digests)| (prefix_cache, digests.as_slice()));
        let signals = &self.context.signals;
        let request = PrefillRequest { end, with_tap: self.words.is_some(), stopped: &|| signals.stopped() };
        let Some(Prefilled { state, logits, delta, tokens, tap, cached_tokens, encoders }) =
            prefill(&self.model, &mut self.prompt, &request, prefix_cache)?
        else {
            return Ok(None);
        };
        (report.cached_tokens, report.encoders) = (cached_tokens, encoders);
        let mut sampler = Sampler::new(&self.options.thinker, Suppressed::default());
        let next = self.model.compute(|| sampler.sample(logits));
        if let Some(words) = &self.words {
            // A talker that has gone reports why itself.
            let _ = words.send_blocking(Word::Tap(tap.clone().map(Box::new)));
        }
        drop(span);
        report.prefill = started.elapsed() - report.encoders;
        report.thinker = report.prefill;
        Ok(Some(Decoding { state, sampler, delta, next, tokens, tap }))
    }

    /// Gives the state back to the session.
    fn keep(&self, decoding: Decoding, answer: &[u32]) {
        let Some((prefix_cache, _)) = &self.prefix_cache else { return };
        let Decoding { state, delta, mut tokens, tap, .. } = decoding;
        let prompt = tokens.len();
        let fed = state.tokens() - prompt;
        let token = |(at, id): (usize, &u32)| TokenKey::text(*id, (prompt + at) as f32 + delta);
        tokens.extend(answer[..fed].iter().enumerate().map(token));
        prefix_cache.put_thinker(ThinkerPrefix { state, tokens, tap });
    }

    /// Feeds the last token, chooses the next.
    fn next_token(
        &self,
        mut decoding: Decoding,
        slot: &mut Slot<ThinkerJob, ThinkerDone>,
        report: &mut ThinkerReport,
    ) -> Result<Decoding> {
        let _exclusive = self.context.signals.exclusive();
        let started = Instant::now();
        let thinker = &self.model.thinker;
        let position = decoding.state.tokens() as f32 + decoding.delta;
        let embeds = self.model.compute(|| thinker.embed(&[decoding.next]));
        let input = ThinkerInput::text(embeds, Positions::sequence(position, 1));
        let output;
        (decoding.state, output) =
            slot.run((decoding.state, input), |steps| self.model.compute(|| forward_thinker_batch(thinker, steps)))?;
        decoding.next = decoding.sampler.sample(output?.logits);
        report.thinker += started.elapsed();
        Ok(decoding)
    }

    /// False if no more tokens are to be written.
    fn take_token(
        &self,
        decoding: &Decoding,
        splitter: &mut ReasoningSplitter,
        report: &mut ThinkerReport,
        pending: &mut Option<u32>,
    ) -> bool {
        let id = decoding.next;
        if report.answer.is_empty() {
            report.first_token = self.context.started.elapsed();
        }
        if self.model.generation.ends_text(id) {
            report.finish_reason = Some(FinishReason::End);
            return false;
        }
        report.answer.push(id);
        let event = splitter.push(&self.model.tokenizer, id);
        event.into_iter().for_each(|event| self.context.event(event));
        if splitter.speaks() {
            self.release(pending, report);
            *pending = Some(id);
            report.spoken.push(splitter.answer_bytes());
            // The reference's talker never hears a last token that is not the end: it must wait for the next one.
            if self.options.last_word == LastWord::Spoken {
                self.release(pending, report);
            }
        }
        let full = self.prompt.tokens() + report.answer.len() >= self.model.thinker.context_length();
        report.finish_reason = match report.answer.len() >= self.options.max_new_tokens {
            _ if self.context.signals.stopped() => Some(FinishReason::Cancelled),
            _ if full => Some(FinishReason::Context),
            true => Some(FinishReason::Limit),
            false => None,
        };
        report.finish_reason.is_none()
    }

    /// Passes the pending id on, unless the text was cut behind it and the reference is followed.
    fn release(&self, pending: &mut Option<u32>, report: &ThinkerReport) {
        let cut = report.finish_reason.is_some_and(|reason| reason != FinishReason::End);
        let (Some(id), Some(words)) = (pending.take(), &self.words) else {
            return;
        };
        if !(cut && self.options.last_word == LastWord::AsReference) {
            let _ = words.send_blocking(Word::Id(id));
        }
    }
}
