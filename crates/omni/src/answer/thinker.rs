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
use super::stop::StopStrings;
use crate::model::Model;
use crate::output::{Event, FinishReason};
use crate::prefill::{PrefillRequest, Prefilled, PrefixCache, ThinkerPrefix, TokenKey, prefill};
use crate::prompt::{GenerateOptions, LastWord, Prompt};
use crate::schedule::{Slot, ThinkerDone, ThinkerJob, forward_thinker_batch};

/// The name of this stage in errors.
const STAGE: &str = "thinker";

/// The stage of the thinker: prefills the prompt, decodes the text, and sends the talker what is to be spoken.
pub(crate) struct ThinkerStage {
    pub(crate) context: StageContext,
    pub(crate) model: Arc<Model>,
    pub(crate) options: Arc<GenerateOptions>,
    pub(crate) prompt: Prompt,
    /// Sends to the talker, if there is one.
    pub(crate) words: Option<Sender<Word>>,
    /// The session's prefix cache, and the digests of the prompt's contents.
    pub(crate) prefix_cache: Option<(PrefixCache, Vec<u64>)>,
}

/// The report of the thinker when it ends.
#[derive(Debug, Default)]
pub(crate) struct ThinkerReport {
    pub(crate) answer: Vec<u32>,
    pub(crate) text: String,
    pub(crate) thinking: Option<String>,
    pub(crate) finish_reason: Option<FinishReason>,
    /// Where a stop string begins in the text.
    cut: Option<usize>,
    /// Byte offset in [`ThinkerReport::text`] at which the text of each spoken id ends.
    pub(crate) spoken: Vec<usize>,
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

/// The state of decoding between two tokens.
struct Decoding {
    state: ThinkerState,
    sampler: Sampler,
    delta: f32,
    next: u32,
    /// Keys of the prompt's tokens, for the prefix cache.
    tokens: Vec<TokenKey>,
    /// `[M, D]`: states of the accepted layer at the prompt's media rows.
    tap: Option<Tensor<2>>,
}

/// The ids on their way to the talker.
struct SpokenIds {
    stops: StopStrings,
    /// The last id, if the reference is followed: its talker never gets the last token of a truncated text.
    pending: Option<u32>,
}

impl ThinkerStage {
    pub(crate) fn run(mut self) -> Result<()> {
        let mut report = ThinkerReport::default();
        let mut splitter =
            ReasoningSplitter::new(&self.model.tokenizer, self.prompt.ids(), self.options.starts_thinking);
        if self.context.signals.stopped() {
            report.finish_reason = Some(FinishReason::Cancelled);
        } else {
            let Some(mut decoding) = self.prefill_prompt(&mut report)? else {
                report.finish_reason = Some(FinishReason::Cancelled);
                return self.finish(splitter, report);
            };
            let mut spoken = SpokenIds { stops: StopStrings::new(&self.options.stop), pending: None };
            let model = self.model.clone();
            let mut slot = model.batches.thinker_decode.slot();
            while self.take_token(&decoding, &mut splitter, &mut report, &mut spoken) {
                decoding = self.next_token(decoding, &mut slot, &mut report)?;
            }
            drop(slot);
            self.end_text(&mut splitter, &mut spoken, &mut report);
            report.cache_bytes = decoding.state.bytes();
            self.cache(decoding, &report.answer);
        }
        self.finish(splitter, report)
    }

    fn finish(mut self, splitter: ReasoningSplitter, mut report: ThinkerReport) -> Result<()> {
        // A closed channel tells the talker that the text has ended.
        drop(self.words.take());
        let (thinking, mut text) = splitter.texts(&self.model.tokenizer, &report.answer);
        if let Some(cut) = report.cut.filter(|cut| text.is_char_boundary(*cut)) {
            text.truncate(cut);
        }
        (report.thinking, report.text) = (thinking, text);
        self.context.report(Report::Thinker(Box::new(report)));
        Ok(())
    }

    /// Prefills the prompt and samples the first token; `None` if the answer was cancelled meanwhile.
    fn prefill_prompt(&mut self, report: &mut ThinkerReport) -> Result<Option<Decoding>> {
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
        // As in the reference, the repetition penalty acts on the prompt as well.
        sampler.accept_prompt(self.prompt.ids());
        let next = self.model.compute(|| sampler.sample(logits));
        sampler.check(STAGE)?;
        if let Some(words) = &self.words {
            // If the talker has ended early, it reports why itself.
            let _ = words.send_blocking(Word::Tap(tap.clone().map(Box::new)));
        }
        drop(span);
        report.prefill = started.elapsed() - report.encoders;
        report.thinker = report.prefill;
        Ok(Some(Decoding { state, sampler, delta, next, tokens, tap }))
    }

    /// Puts the state into the session's prefix cache.
    fn cache(&self, decoding: Decoding, answer: &[u32]) {
        let Some((prefix_cache, _)) = &self.prefix_cache else { return };
        let Decoding { state, delta, mut tokens, tap, .. } = decoding;
        let prompt = tokens.len();
        let fed = state.tokens() - prompt;
        let token = |(at, id): (usize, &u32)| TokenKey::text(*id, (prompt + at) as f32 + delta);
        tokens.extend(answer[..fed].iter().enumerate().map(token));
        prefix_cache.put_thinker(ThinkerPrefix { state, tokens, tap });
    }

    /// Decodes a step: feeds the last token and samples the next.
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
        decoding.sampler.check(STAGE)?;
        report.thinker += started.elapsed();
        Ok(decoding)
    }

    /// Takes the sampled token: sends its text and, if it is spoken, its id. Returns whether decoding goes on.
    fn take_token(
        &self,
        decoding: &Decoding,
        splitter: &mut ReasoningSplitter,
        report: &mut ThinkerReport,
        spoken: &mut SpokenIds,
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
        let start = splitter.answer_bytes();
        let event = splitter.push(&self.model.tokenizer, id);
        self.show(event, &mut spoken.stops);
        if splitter.closed() {
            // What was shown was thinking after all; the answer begins here.
            let held = spoken.stops.finish();
            if !held.is_empty() {
                self.context.event(Event::Text(held));
            }
            spoken.stops.reset();
        }
        if splitter.speaks() {
            spoken.stops.push_id(id, start, splitter.answer_bytes());
        }
        self.speak_ready(spoken, report);
        let full = self.prompt.tokens() + report.answer.len() >= self.model.thinker.context_length();
        report.finish_reason = match report.answer.len() >= self.options.max_new_tokens {
            _ if self.context.signals.stopped() => Some(FinishReason::Cancelled),
            _ if spoken.stops.cut().is_some() => Some(FinishReason::Stop),
            _ if full => Some(FinishReason::Context),
            true => Some(FinishReason::Limit),
            false => None,
        };
        report.finish_reason.is_none()
    }

    /// Sends an event; text as far as no stop string can begin in it.
    fn show(&self, event: Option<Event>, stops: &mut StopStrings) {
        match event {
            Some(Event::Text(piece)) => {
                let text = stops.push(&piece);
                if !text.is_empty() {
                    self.context.event(Event::Text(text));
                }
            }
            other => other.into_iter().for_each(|event| self.context.event(event)),
        }
    }

    /// Sends the talker the ids whose text is certain.
    fn speak_ready(&self, spoken: &mut SpokenIds, report: &mut ThinkerReport) {
        while let Some((id, end)) = spoken.stops.ready() {
            self.send_pending(&mut spoken.pending, report);
            spoken.pending = Some(id);
            report.spoken.push(end);
            if self.options.last_word == LastWord::Spoken {
                self.send_pending(&mut spoken.pending, report);
            }
        }
    }

    /// Sends what was held back, when the last token has been taken.
    fn end_text(&self, splitter: &mut ReasoningSplitter, spoken: &mut SpokenIds, report: &mut ThinkerReport) {
        self.show(splitter.finish(), &mut spoken.stops);
        report.cut = spoken.stops.cut();
        let held = spoken.stops.finish();
        if !held.is_empty() {
            self.context.event(Event::Text(held));
        }
        self.speak_ready(spoken, report);
        self.send_pending(&mut spoken.pending, report);
    }

    /// Sends the pending id to the talker, unless the text was truncated after it and the reference is followed.
    fn send_pending(&self, pending: &mut Option<u32>, report: &ThinkerReport) {
        let whole = [FinishReason::End, FinishReason::Stop];
        let truncated = report.finish_reason.is_some_and(|reason| !whole.contains(&reason));
        let (Some(id), Some(words)) = (pending.take(), &self.words) else {
            return;
        };
        if !(truncated && self.options.last_word == LastWord::AsReference) {
            let _ = words.send_blocking(Word::Id(id));
        }
    }
}
