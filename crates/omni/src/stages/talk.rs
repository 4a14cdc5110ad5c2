use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use burn::tensor::Tensor;
use moe_talker::{Conversation, SpeakOptions, Speaking, TalkerPrompt, TalkerState};
use omni_core::{Error, Positions, Result, SamplingOptions};
use tm_rope::MediaLayout;

use super::guard::{Loops, overrun};
use super::together::{self, Speech, Spoken, frames};
use super::{Common, Frame, Report, Word, stop_from_outside};
use crate::memory::{Memory, TalkerMemory, Token, chained};
use crate::omni::{Inner, SpeechParts};
use crate::prefill::{PIECE, Prefill};
use crate::{GenerateOptions, SpeechStop, TalkerPositions};

/// The talker and the code predictor: words to frames.
pub(crate) struct TalkStage {
    pub(crate) common: Common,
    pub(crate) model: Arc<Inner>,
    pub(crate) options: Arc<GenerateOptions>,
    pub(crate) speaker: u32,
    pub(crate) speak: SpeakOptions,
    /// Sampling of the residual codes.
    pub(crate) residual_sampling: SamplingOptions,
    /// Ids and layout of the thinker's prompt.
    pub(crate) ids: Vec<u32>,
    pub(crate) layout: MediaLayout,
    pub(crate) words: Receiver<Word>,
    pub(crate) frames: Sender<Frame>,
    /// What the session keeps, and the prompt's contents by which it is known.
    pub(crate) memory: Option<(Memory, Vec<u64>)>,
}

/// What the talker made.
#[derive(Debug, Default)]
pub(crate) struct Talked {
    /// `None` if there was nothing to say.
    pub(crate) stop: Option<SpeechStop>,
    /// From the first word to the first code.
    pub(crate) first_code: Duration,
    /// Without the code predictor.
    pub(crate) talker: Duration,
    pub(crate) code_predictor: Duration,
    pub(crate) cache_bytes: usize,
}

type Begun = (TalkerPrompt, Speaking, Vec<Token>);

/// The rows of text of a run, as they come.
struct Rows<'a> {
    model: &'a Inner,
    words: &'a Receiver<Word>,
    pad: Tensor<2>,
    /// Taken when the text has ended.
    eos: Option<Tensor<2>>,
    /// Words taken, the first included.
    taken: usize,
}

impl Rows<'_> {
    /// The row of the next word `[1, D]`, waiting for it if need be; then the row that closes the text; then the pad.
    fn next(&mut self, talker: &moe_talker::Talker) -> Tensor<2> {
        if self.eos.is_some()
            && let Ok(Word::Id(id)) = self.words.recv_blocking()
        {
            self.taken += 1;
            return self.model.compute(|| talker.text_row(&self.model.thinker.embed(&[id])));
        }
        self.eos.take().unwrap_or_else(|| self.pad.clone())
    }

    /// Words of the whole text, once it has ended.
    fn words(&self) -> Option<usize> {
        self.eos.is_none().then_some(self.taken)
    }
}

impl TalkStage {
    pub(crate) fn run(self) -> Result<()> {
        let mut talked = Talked::default();
        if self.common.signals.sequential() {
            // The text is written to its end first: what is sent waits in the channel.
            while !self.words.is_closed() && !self.common.signals.stopped() {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        if let (Ok(Word::Tap(tap)), Ok(Word::Id(first))) = (self.words.recv_blocking(), self.words.recv_blocking()) {
            self.speak(tap.map(|tap| *tap), first, &mut talked)?;
        }
        self.common.report(Report::Talked(talked));
        Ok(())
    }

    fn speak(&self, tap: Option<Tensor<2>>, first: u32, talked: &mut Talked) -> Result<()> {
        let parts = self.model.speech.as_ref().expect("speech was planned");
        let begun = Instant::now();
        let turn = self.common.signals.turn();
        let span = tracing::info_span!("talker_prompt").entered();
        let Some((prompt, mut speaking, tokens)) = self.begin(parts, tap, first, talked)? else {
            return Ok(());
        };
        drop((span, turn));
        talked.first_code = begun.elapsed();
        talked.talker = talked.first_code;
        let TalkerPrompt { eos, pad, .. } = prompt;
        let mut rows = Rows { model: &self.model, words: &self.words, pad, eos: Some(eos), taken: 1 };
        let mut loops = Loops::default();
        let (mut made, mut text) = (0, None);
        let mut predictor = parts.code_predictor.start(&self.residual_sampling);
        let mut seat = self.model.together.talker.seat();
        talked.stop = loop {
            if let Some(stop) = stop_from_outside(&self.common.signals) {
                break Some(stop);
            }
            let guards = &self.options.guards;
            if guards.frames_per_token.zip(rows.words()).is_some_and(|(most, words)| overrun(made, words, most)) {
                break Some(SpeechStop::Overrun);
            }
            let started = Instant::now();
            let turn = self.common.signals.turn();
            let job = Speech { speaking, predictor, text };
            let spoken = seat.run(job, |speeches| self.model.compute(|| frames(parts, speeches)))?;
            drop(turn);
            let (frame, predicting);
            Spoken { speaking, predictor, frame, predicting } = spoken;
            talked.code_predictor += predicting;
            talked.talker += started.elapsed().saturating_sub(predicting);
            let frame = frame?;
            if guards.looping_frames.is_some_and(|most| loops.push(speaking.first_code(), most)) {
                break Some(SpeechStop::Loop);
            }
            let Some(frame) = frame else {
                break speaking.stop().map(SpeechStop::from);
            };
            made += 1;
            if self.frames.send_blocking(frame).is_err() {
                // The vocoder has gone; if it failed, it says so itself.
                break stop_from_outside(&self.common.signals).or(Some(SpeechStop::Cancelled));
            }
            text = Some(rows.next(&parts.talker));
        };
        drop(seat);
        talked.cache_bytes = speaking.state().bytes();
        self.keep(speaking.into_state(), tokens);
        Ok(())
    }

    /// The prompt, a run that has taken it, and what the user part will be known by; `None` if there is nothing to say, or it was stopped.
    fn begin(
        &self,
        parts: &SpeechParts,
        tap: Option<Tensor<2>>,
        first: u32,
        talked: &mut Talked,
    ) -> Result<Option<Begun>> {
        let Some(prompt) = self.model.compute(|| self.prompt(parts, tap, first))? else { return Ok(None) };
        let (positions, delta) = match self.options.talker_positions {
            TalkerPositions::Exact => self.layout.positions(&prompt.ids)?,
            TalkerPositions::AsReference => self.layout.plain_positions(&prompt.ids)?,
        };
        let rows = prompt.ids.len();
        let limit = parts.talker.context_length();
        if rows > limit {
            return Err(Error::ContextLength { tokens: rows, limit });
        }
        let (state, tokens) = self.recall(parts, &prompt, &positions)?;
        let batch = &self.model.together.talker_prompts;
        let stopped = || stop_from_outside(&self.common.signals).is_some();
        let reading = Prefill { batch, piece: PIECE, stopped: &stopped };
        let compute = |steps| self.model.compute(|| together::rows(&parts.talker, steps));
        let mut last = None;
        let piece = |range| Ok(prompt.input(range, &positions));
        let known = state.tokens();
        let (state, ended) = reading.read(state, known..rows, piece, compute, |_, output| last = Some(output))?;
        match (ended, last) {
            (Ok(true), Some(output)) => {
                let speaking = parts.talker.begin_after((state, output), delta, &self.speak, &mut ());
                Ok(Some((prompt, speaking, tokens)))
            }
            (ended, _) => {
                talked.stop = stop_from_outside(&self.common.signals);
                self.keep(state, tokens);
                ended.map(|_| None)
            }
        }
    }

    /// Leaves the user part to the session's next turn, as far as it was read.
    fn keep(&self, mut state: TalkerState, mut tokens: Vec<Token>) {
        if let Some((memory, _)) = &self.memory {
            tokens.truncate(state.tokens());
            state.truncate(tokens.len());
            memory.keep_talker(TalkerMemory { state, tokens });
        }
    }

    fn prompt(&self, parts: &SpeechParts, tap: Option<Tensor<2>>, first: u32) -> Result<Option<TalkerPrompt>> {
        let embed = |ids: &[u32]| self.model.thinker.embed(ids);
        let conversation =
            Conversation { prompt: &self.ids, answer: &[first], speaker: self.speaker, embed: &embed, tap };
        parts.talker.prompt(&conversation)
    }

    /// A state that has taken what is known of the user part, and what the whole user part will be known by.
    fn recall(
        &self,
        parts: &SpeechParts,
        prompt: &TalkerPrompt,
        positions: &Positions,
    ) -> Result<(TalkerState, Vec<Token>)> {
        let Some((memory, contents)) = &self.memory else {
            return Ok((parts.talker.start(), Vec::new()));
        };
        // The states of media rows depend on all that the thinker read before them.
        let (thinker_positions, _) = self.layout.positions(&self.ids)?;
        let contents = chained(&Token::all(self.ids.iter().copied(), contents, &thinker_positions));
        let contents: Vec<u64> = prompt.user.iter().map(|at| contents[*at]).collect();
        let tokens = Token::all(prompt.ids[..prompt.user.len()].iter().copied(), &contents, positions);
        let Some(TalkerMemory { mut state, tokens: old }) = memory.take_talker() else {
            return Ok((parts.talker.start(), tokens));
        };
        let known = old.iter().zip(&tokens).take_while(|(old, new)| old == new).count();
        state.truncate(known);
        Ok((state, tokens))
    }
}
