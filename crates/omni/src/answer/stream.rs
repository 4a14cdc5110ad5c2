//! The stream of an answer: starts the stages and turns their reports into events.

use std::iter::FusedIterator;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use async_channel::{Receiver, bounded};
use omni_core::{Error, Result};

#[cfg(feature = "async")]
use super::asynchronous::{AsyncEvents, PollEvent};
use super::outcome::Outcome;
use super::report::Report;
use super::stage::{Signals, StageContext};
use super::talker::TalkerStage;
use super::thinker::ThinkerStage;
use super::vocoder::VocoderStage;
use crate::model::Model;
use crate::output::{Event, PromptTokens};
use crate::prefill::{PrefixCache, content_digests};
use crate::prompt::{Prompt, SpeechPlan, Stages};
use crate::schedule::Permit;

/// Most events that wait for the reader; then the stages wait.
const EVENTS: usize = 16;
/// Most frames that wait for the vocoder; then the talker waits.
const FRAMES: usize = 64;

/// An answer that is being generated: an iterator of events. After an error or `Done` it is exhausted.
///
/// The stages run in threads of their own, at most a few pieces ahead of the reader. Dropping the stream stops them, each
/// after the token, frame or piece it is working on.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # let chat = [qwen3_omni::Message::user().text("hello")];
/// let stream = omni.stream(&chat, &Default::default())?;
/// let sounds = stream.filter_map(|event| match event {
///     Ok(qwen3_omni::Event::Audio(sound)) => Some(sound.samples),
///     _ => None,
/// });
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[must_use = "an answer that is dropped is cancelled"]
pub struct ReplyStream {
    // Pinned for the asynchronous reader.
    pub(super) reports: Pin<Box<Receiver<Report>>>,
    stages: Vec<(&'static str, JoinHandle<()>)>,
    signals: Arc<Signals>,
    prompt: PromptTokens,
    pub(super) outcome: Option<Outcome>,
}

impl std::fmt::Debug for ReplyStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyStream").field("ended", &self.outcome.is_none()).finish_non_exhaustive()
    }
}

/// Cancels an answer from anywhere: another thread, a signal handler, the player of the sound.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # let stream = omni.stream(&[], &Default::default())?;
/// let canceller = stream.canceller();
/// std::thread::spawn(move || {
///     std::thread::sleep(std::time::Duration::from_secs(20));
///     canceller.cancel(); // the stream ends with `Done`
/// });
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Clone)]
pub struct Canceller {
    signals: Arc<Signals>,
}

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canceller").finish_non_exhaustive()
    }
}

impl Canceller {
    /// Stops all stages, each after the token, frame or piece of sound it is working on. Pieces that are ready are still handed
    /// out, then `Done` with what they hold. Calling it again, or after the end, does nothing.
    pub fn cancel(&self) {
        self.signals.cancel();
    }
}

/// Stops the other stages when a stage panics.
struct FailOnPanic(Arc<Signals>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail();
        }
    }
}

impl ReplyStream {
    pub(crate) fn new(
        model: Arc<Model>,
        mut prompt: Prompt,
        prefix_cache: Option<PrefixCache>,
        permit: Permit,
    ) -> Result<Self> {
        let prefix_cache = prefix_cache.map(|prefix_cache| (prefix_cache, content_digests(&model, &prompt)));
        let (options, plan) = (prompt.options.clone(), prompt.speech.take());
        let (sender, reports) = bounded(EVENTS);
        let signals = Arc::new(Signals::new(options.stages == Stages::Sequential));
        let started = Instant::now();
        let context = StageContext { reports: sender, signals: signals.clone(), started, _permit: Arc::new(permit) };
        let (outcome, tokens) = (Some(Outcome::new(&model, &prompt, started)), prompt.tokens_by_kind());
        let mut stream = Self { reports: Box::pin(reports), stages: Vec::new(), signals, prompt: tokens, outcome };
        let words = match plan {
            None => None,
            Some(SpeechPlan { speaker, speak, residual_sampling }) => {
                // There is room for all words, which are only ids, so that text never waits for speech.
                let most =
                    (options.max_new_tokens.saturating_add(prompt.given.len())).min(model.thinker.context_length());
                let (words, talker_words) = bounded(most.saturating_add(2));
                let (frames, vocoder_frames) = bounded(FRAMES);
                let talker = TalkerStage {
                    context: context.clone(),
                    model: model.clone(),
                    options: options.clone(),
                    speaker,
                    speak,
                    residual_sampling,
                    ids: prompt.ids().to_vec(),
                    layout: prompt.layout.clone(),
                    words: talker_words,
                    frames,
                    prefix_cache: prefix_cache.clone(),
                };
                let vocoder = VocoderStage {
                    context: context.clone(),
                    model: model.clone(),
                    options: options.clone(),
                    frames: vocoder_frames,
                };
                stream.spawn("vocoder", &context, move || vocoder.run())?;
                stream.spawn("talker", &context, move || talker.run())?;
                Some(words)
            }
        };
        let thinker = ThinkerStage { context: context.clone(), model, options, prompt, words, prefix_cache };
        stream.spawn("thinker", &context, move || thinker.run())?;
        Ok(stream)
    }

    fn spawn(
        &mut self,
        stage: &'static str,
        context: &StageContext,
        run: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (context, parent) = (context.clone(), tracing::Span::current());
        let thread = move || {
            let _parent = parent.entered();
            let _span = tracing::info_span!("stage", name = stage).entered();
            let _guard = FailOnPanic(context.signals.clone());
            if let Err(error) = run() {
                context.signals.fail();
                context.report(Report::Failed(error));
            }
        };
        let spawned = Builder::new().name(format!("qwen3-omni {stage}")).spawn(thread);
        let handle = spawned.map_err(|error| Error::Device(format!("no thread for the {stage}: {error}")))?;
        self.stages.push((stage, handle));
        Ok(())
    }

    /// Tokens of the prompt that is answered.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.total()
    }

    /// These tokens by kind.
    pub fn prompt_tokens_by_kind(&self) -> PromptTokens {
        self.prompt
    }

    /// Returns a handle that cancels the answer from another thread.
    pub fn canceller(&self) -> Canceller {
        Canceller { signals: self.signals.clone() }
    }

    /// Stops the answer; see [`Canceller::cancel`].
    pub fn cancel(&self) {
        self.signals.cancel();
    }

    /// Turns the answer into a stream for an asynchronous reader.
    #[cfg(feature = "async")]
    pub fn into_async(self) -> AsyncEvents<Self> {
        AsyncEvents::new(self)
    }

    /// Takes a report, or the end of all reports; returns the next item of the iterator, or `None` if there is none yet.
    pub(super) fn receive(&mut self, report: Option<Report>) -> Option<Option<Result<Event>>> {
        let Some(outcome) = &mut self.outcome else {
            return Some(None);
        };
        match report {
            Some(Report::Event(event)) => return Some(Some(Ok(event))),
            Some(Report::Thinker(thinker)) => outcome.thinker = Some(*thinker),
            Some(Report::Talker(talker)) => outcome.talker = Some(talker),
            Some(Report::Vocoder(vocoder)) => outcome.vocoder = Some(vocoder),
            Some(Report::Failed(error)) => {
                // The first error is the result. The other stages end by themselves.
                self.stop();
                return Some(Some(Err(error)));
            }
            None => {
                let outcome = self.outcome.take().expect("it is there");
                let end = self.end();
                return Some(Some(end.map(|()| Event::Done(Box::new(outcome.into_reply())))));
            }
        }
        None
    }

    /// Stops the stages and discards what they have sent.
    pub(crate) fn stop(&mut self) {
        self.outcome = None;
        self.signals.fail();
        self.reports.close();
        while self.reports.try_recv().is_ok() {}
    }

    /// Stops the stages and waits until they have ended.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.stop();
        let mut result = Ok(());
        for (stage, handle) in self.stages.drain(..) {
            if let Err(payload) = handle.join() {
                result = Err(panicked(stage, &*payload));
            }
        }
        result
    }
}

impl Iterator for ReplyStream {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        loop {
            self.outcome.as_ref()?;
            let report = self.reports.recv_blocking().ok();
            if let Some(item) = self.receive(report) {
                return item;
            }
        }
    }
}

impl FusedIterator for ReplyStream {}

#[cfg(feature = "async")]
impl PollEvent for ReplyStream {
    fn poll_event(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<Result<Event>>> {
        loop {
            if self.outcome.is_none() {
                return std::task::Poll::Ready(None);
            }
            let report = std::task::ready!(futures_core::Stream::poll_next(self.reports.as_mut(), context));
            if let Some(item) = self.receive(report) {
                return std::task::Poll::Ready(item);
            }
        }
    }
}

impl Drop for ReplyStream {
    /// Stops the stages without waiting for them.
    fn drop(&mut self) {
        self.signals.cancel();
        self.reports.close();
    }
}

/// The error of a stage that panicked.
fn panicked(stage: &str, payload: &(dyn std::any::Any + Send)) -> Error {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
    Error::Device(format!("the {stage} stopped: {text}"))
}
