use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Sender;
use burn::tensor::Tensor;
use moe_thinker::{ThinkerInput, ThinkerState};
use nn::Sampler;
use nn::sampler::Suppressed;
use omni_core::{Positions, Result};

use super::together::{Scored, Tokens, tokens};
use super::{Common, Report, Word};
use crate::batch::Seat;
use crate::memory::{Memory, ThinkerMemory, Token};
use crate::omni::Inner;
use crate::prefill::{Read, Wanted, read};
use crate::processor::Prompt;
use crate::written::Written;
use crate::{GenerateOptions, LastWord, TextStop};

/// The thinker: reads the prompt, writes the text, and passes on what is to be spoken.
pub(crate) struct ThinkStage {
    pub(crate) common: Common,
    pub(crate) model: Arc<Inner>,
    pub(crate) options: Arc<GenerateOptions>,
    pub(crate) prompt: Prompt,
    /// To the talker, if there is one.
    pub(crate) words: Option<Sender<Word>>,
    /// What the session keeps, and the prompt's contents by which it is known.
    pub(crate) memory: Option<(Memory, Vec<u64>)>,
}

/// What the thinker made.
#[derive(Debug, Default)]
pub(crate) struct Thought {
    pub(crate) answer: Vec<u32>,
    pub(crate) text: String,
    pub(crate) thinking: Option<String>,
    pub(crate) stop: Option<TextStop>,
    /// For each id that was passed on: where its text ends in [`Thought::text`], in bytes.
    pub(crate) spoken: Vec<usize>,
    pub(crate) encoders: Duration,
    /// All the thinker did, encoders excluded.
    pub(crate) thinker: Duration,
    /// The part of it for the prompt and the first token.
    pub(crate) prefill: Duration,
    /// From the request to the first token.
    pub(crate) first_token: Duration,
    pub(crate) cache_bytes: usize,
    /// Tokens of the prompt that were known from earlier turns.
    pub(crate) known: usize,
}

/// The thinker between two tokens.
struct Writing {
    state: ThinkerState,
    sampler: Sampler,
    delta: f32,
    next: u32,
    /// What the session will know the state by.
    tokens: Vec<Token>,
    /// `[M, D]`: states of the accepted layer at the prompt's media.
    tap: Option<Tensor<2>>,
}

impl ThinkStage {
    pub(crate) fn run(mut self) -> Result<()> {
        let mut thought = Thought::default();
        let mut written = Written::new(&self.model.tokenizer, self.prompt.ids(), self.options.starts_thinking);
        if self.common.signals.stopped() {
            thought.stop = Some(TextStop::Cancelled);
        } else {
            let Some(mut writing) = self.read_prompt(&mut thought)? else {
                thought.stop = Some(TextStop::Cancelled);
                return self.finish(written, thought);
            };
            let mut held = None;
            let model = self.model.clone();
            let mut seat = model.together.thinker.seat();
            while self.take_token(&writing, &mut written, &mut thought, &mut held) {
                writing = self.next_token(writing, &mut seat, &mut thought)?;
            }
            drop(seat);
            self.release(&mut held, &thought);
            let rest = written.finish();
            rest.into_iter().for_each(|event| self.common.event(event));
            thought.cache_bytes = writing.state.bytes();
            self.keep(writing, &thought.answer);
        }
        self.finish(written, thought)
    }

    fn finish(mut self, written: Written, mut thought: Thought) -> Result<()> {
        // The talker takes this for the end of the text.
        drop(self.words.take());
        let (thinking, text) = written.texts(&self.model.tokenizer, &thought.answer);
        (thought.thinking, thought.text) = (thinking, text);
        self.common.report(Report::Thought(Box::new(thought)));
        Ok(())
    }

    /// `None` if the answer was cancelled meanwhile.
    fn read_prompt(&mut self, thought: &mut Thought) -> Result<Option<Writing>> {
        let _turn = self.common.signals.turn();
        let span = tracing::info_span!("thinker_prompt", tokens = self.prompt.tokens()).entered();
        let started = Instant::now();
        let end = self.prompt.tokens();
        let memory = self.memory.as_ref().map(|(memory, contents)| (memory, contents.as_slice()));
        let signals = &self.common.signals;
        let wanted = Wanted { end, with_tap: self.words.is_some(), stopped: &|| signals.stopped() };
        let Some(Read { state, logits, delta, tokens, tap, known, encoders }) =
            read(&self.model, &mut self.prompt, &wanted, memory)?
        else {
            return Ok(None);
        };
        (thought.known, thought.encoders) = (known, encoders);
        let mut sampler = Sampler::new(&self.options.thinker, Suppressed::default());
        let next = self.model.compute(|| sampler.sample(logits));
        if let Some(words) = &self.words {
            // A talker that has gone reports why itself.
            let _ = words.send_blocking(Word::Tap(tap.clone().map(Box::new)));
        }
        drop(span);
        thought.prefill = started.elapsed() - thought.encoders;
        thought.thinker = thought.prefill;
        Ok(Some(Writing { state, sampler, delta, next, tokens, tap }))
    }

    /// Gives the state back to the session.
    fn keep(&self, writing: Writing, answer: &[u32]) {
        let Some((memory, _)) = &self.memory else { return };
        let Writing { state, delta, mut tokens, tap, .. } = writing;
        let prompt = tokens.len();
        let fed = state.tokens() - prompt;
        let token = |(at, id): (usize, &u32)| Token::text(*id, (prompt + at) as f32 + delta);
        tokens.extend(answer[..fed].iter().enumerate().map(token));
        memory.keep_thinker(ThinkerMemory { state, tokens, tap });
    }

    /// Feeds the last token, chooses the next.
    fn next_token(
        &self,
        mut writing: Writing,
        seat: &mut Seat<Tokens, Scored>,
        thought: &mut Thought,
    ) -> Result<Writing> {
        let _turn = self.common.signals.turn();
        let started = Instant::now();
        let thinker = &self.model.thinker;
        let position = writing.state.tokens() as f32 + writing.delta;
        let embeds = self.model.compute(|| thinker.embed(&[writing.next]));
        let input = ThinkerInput::text(embeds, Positions::sequence(position, 1));
        let output;
        (writing.state, output) =
            seat.run((writing.state, input), |steps| self.model.compute(|| tokens(thinker, steps)))?;
        writing.next = writing.sampler.sample(output?.logits);
        thought.thinker += started.elapsed();
        Ok(writing)
    }

    /// False if no more tokens are to be written.
    fn take_token(
        &self,
        writing: &Writing,
        written: &mut Written,
        thought: &mut Thought,
        held: &mut Option<u32>,
    ) -> bool {
        let id = writing.next;
        if thought.answer.is_empty() {
            thought.first_token = self.common.started.elapsed();
        }
        if self.model.generation.ends_text(id) {
            thought.stop = Some(TextStop::End);
            return false;
        }
        thought.answer.push(id);
        let event = written.push(&self.model.tokenizer, id);
        event.into_iter().for_each(|event| self.common.event(event));
        if written.speaks() {
            self.release(held, thought);
            *held = Some(id);
            thought.spoken.push(written.answer_bytes());
            // The reference's talker never hears a last token that is not the end: it must wait for the next one.
            if self.options.last_word == LastWord::Spoken {
                self.release(held, thought);
            }
        }
        let full = self.prompt.tokens() + thought.answer.len() >= self.model.thinker.context_length();
        thought.stop = match thought.answer.len() >= self.options.max_new_tokens {
            _ if self.common.signals.stopped() => Some(TextStop::Cancelled),
            _ if full => Some(TextStop::Context),
            true => Some(TextStop::Limit),
            false => None,
        };
        thought.stop.is_none()
    }

    /// Passes the held id on, unless the text was cut behind it and the reference is followed.
    fn release(&self, held: &mut Option<u32>, thought: &Thought) {
        let cut = thought.stop.is_some_and(|stop| stop != TextStop::End);
        let (Some(id), Some(words)) = (held.take(), &self.words) else {
            return;
        };
        if !(cut && self.options.last_word == LastWord::AsReference) {
            let _ = words.send_blocking(Word::Id(id));
        }
    }
}
