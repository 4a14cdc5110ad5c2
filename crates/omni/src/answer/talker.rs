use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use burn::tensor::Tensor;
use moe_talker::{SpeakOptions, Speaking, TalkerContext, TalkerPrompt, TalkerState};
use omni_core::{Error, Positions, Result, SamplingOptions};
use tm_rope::MediaLayout;

use super::guards::{Loops, overrun};
use super::report::{Report, TalkerReport};
use super::splitter::without_thinking;
use super::stage::{StageContext, Word, requested_stop};
use crate::model::{Model, SpeechParts};
use crate::output::SpeechFinish;
use crate::prefill::{CHUNK_TOKENS, ChunkedPrefill, PrefixCache, TalkerPrefix, TokenKey, chained_digests};
use crate::prompt::{GenerateOptions, TalkerPositions};
use crate::schedule::{Frame, FrameDone, FrameJob, forward_frame_batch, forward_talker_batch};

/// The stage of talker and code predictor: makes codec frames from words.
pub(crate) struct TalkerStage {
    pub(crate) context: StageContext,
    pub(crate) model: Arc<Model>,
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
    /// The session's prefix cache, and the digests of the prompt's contents.
    pub(crate) prefix_cache: Option<(PrefixCache, Vec<u64>)>,
}

/// The prompt, a run that has taken it, and the keys of the user part's tokens.
type SpeechStart = (TalkerPrompt, Speaking, Vec<TokenKey>);

/// The text rows of a run, one per frame, as words arrive.
struct Rows<'a> {
    model: &'a Model,
    words: &'a Receiver<Word>,
    /// Text rows `[n, D]` of the prompt after its opening positions, and the number already returned.
    trailing: Tensor<2>,
    given: usize,
    pad: Tensor<2>,
    /// The row that closes the text; taken when the text has ended.
    eos: Option<Tensor<2>>,
    /// Words received, the first included.
    taken: usize,
}

impl<'a> Rows<'a> {
    fn new(model: &'a Model, words: &'a Receiver<Word>, prompt: TalkerPrompt) -> Self {
        let TalkerPrompt { trailing, eos, pad, .. } = prompt;
        let taken = trailing.dims()[0];
        Self { model, words, trailing, given: 0, pad, eos: Some(eos), taken }
    }

    /// Waits for the next word and returns its row `[1, D]`; after the text, the row that closes it, then the pad.
    fn next(&mut self, talker: &moe_talker::Talker) -> Tensor<2> {
        // The last one closes the text, which goes on here.
        if self.given + 1 < self.trailing.dims()[0] {
            self.given += 1;
            return self.trailing.clone().narrow(0, self.given - 1, 1);
        }
        if self.eos.is_some()
            && let Ok(Word::Id(id)) = self.words.recv_blocking()
        {
            self.taken += 1;
            return self.model.compute(|| talker.text_row(&self.model.thinker.embed(&[id])));
        }
        self.eos.take().unwrap_or_else(|| self.pad.clone())
    }

    /// Number of words of the text, once it has ended.
    fn words(&self) -> Option<usize> {
        self.eos.is_none().then_some(self.taken)
    }
}

impl TalkerStage {
    pub(crate) fn run(self) -> Result<()> {
        let mut report = TalkerReport::default();
        if self.context.signals.sequential() {
            // The text is completed first; its ids wait in the channel.
            while !self.words.is_closed() && !self.context.signals.stopped() {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        if let (Ok(Word::Tap(tap)), Ok(Word::Id(first))) = (self.words.recv_blocking(), self.words.recv_blocking()) {
            self.speak(tap.map(|tap| *tap), first, &mut report)?;
        }
        self.context.report(Report::Talker(report));
        Ok(())
    }

    fn speak(&self, tap: Option<Tensor<2>>, first: u32, report: &mut TalkerReport) -> Result<()> {
        let parts = self.model.speech.as_ref().expect("speech was planned");
        let began = Instant::now();
        let exclusive = self.context.signals.exclusive();
        let span = tracing::info_span!("talker_prompt").entered();
        let Some((prompt, mut speaking, tokens)) = self.begin(parts, tap, first, report)? else {
            return Ok(());
        };
        drop((span, exclusive));
        report.first_code = began.elapsed();
        report.talker = report.first_code;
        let mut rows = Rows::new(&self.model, &self.words, prompt);
        let mut loops = Loops::default();
        let (mut made, mut text) = (0, None);
        let mut predictor = parts.code_predictor.start(&self.residual_sampling).with_drafts(self.options.draft_codes);
        let mut slot = self.model.batches.frames.slot();
        report.finish_reason = loop {
            if let Some(stop) = requested_stop(&self.context.signals) {
                break Some(stop);
            }
            let guards = &self.options.guards;
            if guards.frames_per_token.zip(rows.words()).is_some_and(|(most, words)| overrun(made, words, most)) {
                break Some(SpeechFinish::Overrun);
            }
            let started = Instant::now();
            let exclusive = self.context.signals.exclusive();
            let job = FrameJob { speaking, predictor, text };
            let spoken = slot.run(job, |jobs| {
                self.model.compute(|| forward_frame_batch(&parts.talker, &parts.code_predictor, jobs))
            })?;
            drop(exclusive);
            let (frame, predicting);
            FrameDone { speaking, predictor, frame, predicting } = spoken;
            report.code_predictor += predicting;
            report.talker += started.elapsed().saturating_sub(predicting);
            let frame = frame?;
            if guards.looping_frames.is_some_and(|most| loops.push(speaking.first_code(), most)) {
                break Some(SpeechFinish::Loop);
            }
            let Some(frame) = frame else {
                break speaking.finish_reason().map(SpeechFinish::from);
            };
            made += 1;
            if self.frames.send_blocking(frame).is_err() {
                // The vocoder has ended; if it failed, it reports that itself.
                break requested_stop(&self.context.signals).or(Some(SpeechFinish::Cancelled));
            }
            text = Some(rows.next(&parts.talker));
        };
        drop(slot);
        report.drafts = predictor.draft_counts();
        report.cache_bytes = speaking.state().bytes();
        self.cache(speaking.into_state(), tokens);
        Ok(())
    }

    /// Prefills the talker's prompt; `None` if there is nothing to say, or the stage was stopped.
    fn begin(
        &self,
        parts: &SpeechParts,
        tap: Option<Tensor<2>>,
        first: u32,
        report: &mut TalkerReport,
    ) -> Result<Option<SpeechStart>> {
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
        let (state, tokens) = self.start_from_cache(parts, &prompt, &positions)?;
        let batcher = &self.model.batches.talker_prefill;
        let stopped = || requested_stop(&self.context.signals).is_some();
        let chunked = ChunkedPrefill { batcher, chunk: CHUNK_TOKENS, stopped: &stopped };
        let compute = |steps| self.model.compute(|| forward_talker_batch(&parts.talker, steps));
        let mut last = None;
        let chunk = |range| Ok(prompt.input(range, &positions));
        let cached_tokens = state.tokens();
        let (state, ended) =
            chunked.run(state, cached_tokens..rows, chunk, compute, |_, output| last = Some(output))?;
        match (ended, last) {
            (Ok(true), Some(output)) => {
                let speaking = parts.talker.begin_after((state, output), delta, &self.speak, &mut ())?;
                Ok(Some((prompt, speaking, tokens)))
            }
            (ended, _) => {
                report.finish_reason = requested_stop(&self.context.signals);
                self.cache(state, tokens);
                ended.map(|_| None)
            }
        }
    }

    /// Puts the user part, as far as it was prefilled, into the session's prefix cache.
    fn cache(&self, mut state: TalkerState, mut tokens: Vec<TokenKey>) {
        if let Some((prefix_cache, _)) = &self.prefix_cache {
            tokens.truncate(state.tokens());
            state.truncate(tokens.len());
            prefix_cache.put_talker(TalkerPrefix { state, tokens });
        }
    }

    fn prompt(&self, parts: &SpeechParts, tap: Option<Tensor<2>>, first: u32) -> Result<Option<TalkerPrompt>> {
        let embed = |ids: &[u32]| self.model.thinker.embed(ids);
        let ids = without_thinking(&self.ids, self.model.config.turns.im_start, &self.model.tokenizer);
        let context = TalkerContext { prompt: &ids, answer: &[first], speaker: self.speaker, embed: &embed, tap };
        parts.talker.prompt(&context)
    }

    /// Starts from the cached prefix of the user part; returns the state and the keys of all tokens of the user part.
    fn start_from_cache(
        &self,
        parts: &SpeechParts,
        prompt: &TalkerPrompt,
        positions: &Positions,
    ) -> Result<(TalkerState, Vec<TokenKey>)> {
        let Some((prefix_cache, digests)) = &self.prefix_cache else {
            return Ok((parts.talker.start(), Vec::new()));
        };
        // States at media rows depend on all tokens that the thinker read before them.
        let (thinker_positions, _) = self.layout.positions(&self.ids)?;
        let digests = chained_digests(&TokenKey::all(self.ids.iter().copied(), digests, &thinker_positions));
        let digests: Vec<u64> = prompt.user.iter().map(|at| digests[*at]).collect();
        let tokens = TokenKey::all(prompt.ids[..prompt.user.len()].iter().copied(), &digests, positions);
        let Some(TalkerPrefix { mut state, tokens: old }) = prefix_cache.take_talker() else {
            return Ok((parts.talker.start(), tokens));
        };
        let cached_tokens = old.iter().zip(&tokens).take_while(|(old, new)| old == new).count();
        state.truncate(cached_tokens);
        Ok((state, tokens))
    }
}
