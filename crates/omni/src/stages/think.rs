use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Sender;
use burn::tensor::{Int, Tensor};
use moe_thinker::{ThinkerState, merge};
use nn::{Sampler, id_row};
use omni_core::{DecoderInput, Positions, Result, Stage, Thinker as _};

use super::{Common, Report, Word};
use crate::encode::encode;
use crate::omni::Inner;
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
    /// Of it, the prompt and the first token.
    pub(crate) prefill: Duration,
    /// From the request to the first token.
    pub(crate) first_token: Duration,
    pub(crate) cache_bytes: usize,
}

/// The thinker between two tokens.
struct Writing {
    state: ThinkerState,
    sampler: Sampler,
    delta: f32,
    next: Tensor<2, Int>,
}

impl ThinkStage {
    pub(crate) fn run(mut self) -> Result<()> {
        let mut thought = Thought::default();
        let mut written = Written::new(&self.model.tokenizer, self.prompt.ids(), self.options.starts_thinking);
        if self.common.signals.stopped() {
            thought.stop = Some(TextStop::Cancelled);
        } else {
            let mut writing = self.read_prompt(&mut thought)?;
            let mut held = None;
            while self.take_token(&writing, &mut written, &mut thought, &mut held) {
                self.next_token(&mut writing, &mut thought)?;
            }
            self.release(&mut held, &thought);
            let rest = written.finish();
            rest.into_iter().for_each(|event| self.common.event(event));
            thought.cache_bytes = writing.state.bytes();
        }
        // The talker takes this for the end of the text.
        drop(self.words.take());
        let (thinking, text) = written.texts(&self.model.tokenizer, &thought.answer);
        (thought.thinking, thought.text) = (thinking, text);
        self.common.report(Report::Thought(Box::new(thought)));
        Ok(())
    }

    fn read_prompt(&mut self, thought: &mut Thought) -> Result<Writing> {
        let _turn = self.common.signals.turn();
        let span = tracing::info_span!("thinker_prompt", tokens = self.prompt.tokens()).entered();
        let started = Instant::now();
        let media = encode(&self.model, &mut self.prompt)?;
        thought.encoders = started.elapsed();
        let (positions, delta) = self.prompt.layout.positions(self.prompt.ids())?;
        let thinker = &self.model.thinker;
        let mut state = thinker.start();
        let embeds = thinker.embed(id_row(self.prompt.ids(), &self.model.device));
        let (embeds, visual) = merge(embeds, self.prompt.ids(), &self.prompt.layout.ids, media)?;
        let output = thinker.step(&mut state, DecoderInput { embeds, positions, left_padding: Vec::new(), visual })?;
        let mut sampler = Sampler::new(&self.options.thinker, None);
        let next = sampler.sample(output.logits);
        if let Some(words) = &self.words {
            let tap = output.tap.filter(|_| self.prompt.has_media());
            // A talker that has gone reports why itself.
            let _ = words.send_blocking(Word::Tap(tap));
        }
        drop(span);
        thought.prefill = started.elapsed() - thought.encoders;
        thought.thinker = thought.prefill;
        Ok(Writing { state, sampler, delta, next })
    }

    /// Feeds the last token, chooses the next.
    fn next_token(&self, writing: &mut Writing, thought: &mut Thought) -> Result<()> {
        let _turn = self.common.signals.turn();
        let started = Instant::now();
        let thinker = &self.model.thinker;
        let position = writing.state.tokens() as f32 + writing.delta;
        let input = DecoderInput::text(thinker.embed(writing.next.clone()), Positions::sequence(position, 1));
        let output = thinker.step(&mut writing.state, input)?;
        writing.next = writing.sampler.sample(output.logits);
        thought.thinker += started.elapsed();
        Ok(())
    }

    /// The one place where a text id crosses to the host. False if no more tokens are to be written.
    fn take_token(
        &self,
        writing: &Writing,
        written: &mut Written,
        thought: &mut Thought,
        held: &mut Option<u32>,
    ) -> bool {
        let id = writing.next.clone().into_scalar::<i64>() as u32;
        if thought.answer.is_empty() {
            thought.first_token = self.common.started.elapsed();
        }
        if id == self.model.config.im_end_token_id {
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
