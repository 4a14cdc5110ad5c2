use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use async_channel::Sender;
use burn::tensor::Tensor;
use moe_thinker::{ThinkerInput, ThinkerState};
use omni_core::{Positions, Result};

use super::choice::{Choice, Chosen};
use super::prose::Prose;
use super::report::{Report, ThinkerReport};
use super::splitter::Splitter;
use super::stage::{StageContext, Word};
use super::stop::StopStrings;
use crate::model::Model;
use crate::output::{Event, FinishReason};
use crate::prefill::{PrefillRequest, Prefilled, PrefixCache, ThinkerPrefix, TokenKey, prefill};
use crate::prompt::{GenerateOptions, LastWord, Prompt, SpeechFilter};
use crate::schedule::{Slot, ThinkerDone, ThinkerJob, forward_thinker_batch};

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

/// The state of decoding between two tokens.
struct Decoding {
    state: ThinkerState,
    choice: Choice,
    delta: f32,
    next: Chosen,
    /// Keys of the prompt's tokens, for the prefix cache.
    tokens: Vec<TokenKey>,
    /// `[M, D]`: states of the accepted layer at the prompt's media rows.
    tap: Option<Tensor<2>>,
}

/// The ids on their way to the talker.
struct SpokenIds {
    stops: StopStrings,
    /// Leaves out what is not read aloud, if that is wanted.
    prose: Option<Prose>,
    /// Ids waiting for the decision whether they are spoken, with the offsets of their text.
    undecided: VecDeque<(u32, usize, usize)>,
    /// The last id, if the reference is followed: its talker never gets the last token of a truncated text.
    pending: Option<u32>,
}

impl ThinkerStage {
    pub(crate) fn run(mut self) -> Result<()> {
        let mut report = ThinkerReport::default();
        let mut splitter = Splitter::new(&self.model.tokenizer, self.prompt.ids(), self.options.starts_thinking);
        if self.context.signals.stopped() {
            report.finish_reason = Some(FinishReason::Cancelled);
        } else {
            let Some(mut decoding) = self.prefill_prompt(&mut report)? else {
                report.finish_reason = Some(FinishReason::Cancelled);
                return self.finish(splitter, report);
            };
            let mut spoken = SpokenIds {
                stops: StopStrings::new(&self.options.stop),
                prose: self.new_prose(),
                undecided: VecDeque::new(),
                pending: None,
            };
            let model = self.model.clone();
            let mut slot = model.batches.thinker_decode.slot();
            while let Some(id) = self.take_token(&mut decoding, &mut splitter, &mut report, &mut spoken) {
                decoding = self.next_token(decoding, id, &mut slot, &mut report)?;
            }
            drop(slot);
            self.end_text(&mut splitter, &mut spoken, &mut report);
            report.mask = spoken.prose.take().map(Prose::into_spoken);
            report.cache_bytes = decoding.state.bytes();
            self.cache(decoding, &report.answer);
        }
        self.finish(splitter, report)
    }

    fn finish(mut self, splitter: Splitter, mut report: ThinkerReport) -> Result<()> {
        // A closed channel tells the talker that the text has ended.
        drop(self.words.take());
        let (thinking, mut text) = splitter.texts(&self.model.tokenizer, &report.answer);
        report.tool_calls = splitter.into_tool_calls();
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
        let mut choice = Choice::new(&mut self.prompt);
        let next = self.model.compute(|| choice.choose(logits))?;
        if let Some(words) = &self.words {
            // If the talker has ended early, it reports why itself.
            let _ = words.send_blocking(Word::Tap(tap.clone().map(Box::new)));
        }
        drop(span);
        report.prefill = started.elapsed() - report.encoders;
        report.thinker = report.prefill;
        Ok(Some(Decoding { state, choice, delta, next, tokens, tap }))
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
        last: u32,
        slot: &mut Slot<ThinkerJob, ThinkerDone>,
        report: &mut ThinkerReport,
    ) -> Result<Decoding> {
        let _exclusive = self.context.signals.exclusive();
        let started = Instant::now();
        let thinker = &self.model.thinker;
        let position = decoding.state.tokens() as f32 + decoding.delta;
        let embeds = self.model.compute(|| thinker.embed(&[last]));
        let input = ThinkerInput::text(embeds, Positions::sequence(position, 1));
        let output;
        (decoding.state, output) =
            slot.run((decoding.state, input), |steps| self.model.compute(|| forward_thinker_batch(thinker, steps)))?;
        decoding.next = decoding.choice.choose(output?.logits)?;
        report.thinker += started.elapsed();
        Ok(decoding)
    }

    /// Takes the chosen token: sends its text and, if it is spoken, its id. Returns the token if decoding goes on.
    fn take_token(
        &self,
        decoding: &mut Decoding,
        splitter: &mut Splitter,
        report: &mut ThinkerReport,
        spoken: &mut SpokenIds,
    ) -> Option<u32> {
        let (id, log_probs) = decoding.next.take().unzip();
        if report.answer.is_empty() {
            report.first_token = self.context.started.elapsed();
        }
        let Some(id) = id.filter(|id| !self.model.generation.ends_text(*id)) else {
            report.finish_reason = Some(FinishReason::End);
            return None;
        };
        report.answer.push(id);
        let start = splitter.answer_bytes();
        let event = splitter.push(&self.model.tokenizer, id);
        if let Some(mut log_probs) = log_probs.flatten() {
            log_probs.text_end = splitter.answer_bytes();
            self.context.event(Event::LogProbs(log_probs.clone()));
            report.log_probs.push(log_probs);
        }
        self.show(event, spoken);
        if splitter.closed() {
            // What was shown was thinking after all; the answer begins here.
            self.show_held(spoken);
            spoken.stops.reset();
            spoken.prose = self.new_prose();
        }
        if splitter.speaks() {
            spoken.stops.push_id(id, start, splitter.answer_bytes());
        }
        self.speak_ready(spoken, report);
        let full = self.prompt.tokens() + report.answer.len() >= self.model.thinker.context_length();
        let generated = report.answer.len().saturating_sub(self.prompt.given.len());
        report.finish_reason = match generated >= self.options.max_new_tokens {
            _ if self.context.signals.stopped() => Some(FinishReason::Cancelled),
            _ if spoken.stops.cut().is_some() => Some(FinishReason::Stop),
            _ if full => Some(FinishReason::Context),
            true => Some(FinishReason::Limit),
            false => None,
        };
        report.finish_reason.is_none().then_some(id)
    }

    /// Sends an event; text as far as no stop string can begin in it.
    fn show(&self, event: Option<Event>, spoken: &mut SpokenIds) {
        match event {
            Some(Event::Text(piece)) => {
                let text = spoken.stops.push(&piece);
                self.show_text(text, spoken);
            }
            Some(event @ Event::ToolCall(_)) => {
                self.show_held(spoken);
                self.context.event(event);
            }
            other => other.into_iter().for_each(|event| self.context.event(event)),
        }
    }

    /// Sends the text that was held back because a stop string could begin in it.
    fn show_held(&self, spoken: &mut SpokenIds) {
        let held = spoken.stops.finish();
        self.show_text(held, spoken);
    }

    fn show_text(&self, text: String, spoken: &mut SpokenIds) {
        if !text.is_empty() {
            spoken.prose.iter_mut().for_each(|prose| prose.push(&text));
            self.context.event(Event::Text(text));
        }
    }

    fn new_prose(&self) -> Option<Prose> {
        (self.options.speech_filter == SpeechFilter::Prose).then(Prose::default)
    }

    /// Sends the talker the ids whose text is certain.
    fn speak_ready(&self, spoken: &mut SpokenIds, report: &mut ThinkerReport) {
        spoken.undecided.extend(std::iter::from_fn(|| spoken.stops.ready()));
        while let Some((id, start, end)) = spoken.undecided.front().copied() {
            let Some(speaks) = spoken.prose.as_ref().map_or(Some(true), |prose| prose.speaks(start, end)) else {
                return;
            };
            spoken.undecided.pop_front();
            if !speaks {
                continue;
            }
            self.send_pending(&mut spoken.pending, report);
            spoken.pending = Some(id);
            report.spoken.push(end);
            if self.options.last_word == LastWord::Spoken {
                self.send_pending(&mut spoken.pending, report);
            }
        }
    }

    /// Sends what was held back, when the last token has been taken.
    fn end_text(&self, splitter: &mut Splitter, spoken: &mut SpokenIds, report: &mut ThinkerReport) {
        self.show(splitter.finish(), spoken);
        report.cut = spoken.stops.cut();
        self.show_held(spoken);
        spoken.prose.iter_mut().for_each(Prose::finish);
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
