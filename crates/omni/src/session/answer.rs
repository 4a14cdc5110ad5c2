//! An answer within a session.

use std::iter::FusedIterator;
#[cfg(feature = "async")]
use std::task::{Context, Poll, ready};

use omni_core::Result;

use super::turns::Turns;
#[cfg(feature = "async")]
use crate::answer::{AsyncEvents, PollEvent};
use crate::answer::{Canceller, ReplyStream};
use crate::output::{Event, PromptTokens};

/// An answer within a session: an iterator of events, which can be sent to another thread and outlive the session's handle.
///
/// With `Done` the reply becomes part of the conversation, behind the messages that it answers. If the answer is dropped before, the
/// conversation stays as it was.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # let mut session = omni.session();
/// session.push(qwen3_omni::Message::user().text("Tell me a story."));
/// let mut answer = session.answer(&Default::default())?;
/// let beginning: Vec<_> = answer.by_ref().take(10).collect();
/// drop(answer); // nobody listens any more: the session is as it was before
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[must_use = "an answer that is dropped is cancelled"]
#[derive(Debug)]
pub struct Answer {
    turns: Turns,
    canceller: Canceller,
    prompt: PromptTokens,
    /// `None` when the answer has ended.
    stream: Option<ReplyStream>,
    /// Whether dropping the answer waits for its stages.
    waits: bool,
}

impl Answer {
    pub(super) fn new(turns: Turns, stream: ReplyStream) -> Self {
        turns.begin();
        let (canceller, prompt) = (stream.canceller(), stream.prompt_tokens_by_kind());
        Self { turns, canceller, prompt, stream: Some(stream), waits: true }
    }

    /// Tokens of the prompt that is answered: the whole conversation.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.total()
    }

    /// These tokens by kind.
    pub fn prompt_tokens_by_kind(&self) -> PromptTokens {
        self.prompt
    }

    /// Returns a handle that cancels the answer from another thread.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Stops the answer; see [`Canceller::cancel`].
    pub fn cancel(&self) {
        self.canceller.cancel();
    }

    /// Turns the answer into a stream for an asynchronous reader.
    #[cfg(feature = "async")]
    pub fn into_async(mut self) -> AsyncEvents<Self> {
        self.waits = false;
        AsyncEvents::new(self)
    }

    /// Takes an item of the stream.
    fn receive(&mut self, item: Option<Result<Event>>) -> Option<Result<Event>> {
        match &item {
            Some(Ok(Event::Done(reply))) => {
                self.stream = None;
                let said = !reply.text.is_empty() || !reply.tool_calls.is_empty();
                self.turns.end(said.then(|| reply.to_message()));
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => self.abandon(),
        }
        item
    }

    fn abandon(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.turns.abandon(stream);
        }
    }
}

#[cfg(feature = "async")]
impl PollEvent for Answer {
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let item = ready!(stream.poll_event(context));
        Poll::Ready(self.receive(item))
    }
}

impl Iterator for Answer {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        let item = self.stream.as_mut()?.next();
        self.receive(item)
    }
}

impl FusedIterator for Answer {}

impl Drop for Answer {
    /// Stops the answer: its stages end after the token, frame or piece they are working on. Dropping the iterator
    /// waits for them. Dropping an asynchronous reader must not block, so there the session's next operation waits.
    fn drop(&mut self) {
        self.abandon();
        if self.waits {
            // This fails only while an answer is being read, and this was that answer.
            let _ = self.turns.settle();
        }
    }
}
