//! Events for asynchronous readers, in any runtime (feature `async`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_core::stream::FusedStream;
use omni_core::Result;

use crate::output::Event;

/// The events of an answer as a `futures` stream, made by [`crate::ReplyStream::into_async`] or [`crate::Answer::into_async`].
///
/// Dropping it stops the answer without waiting. The stages compute in threads of their own; polling never blocks.
///
/// ```no_run
/// # let omni = qwen3_omni::Omni::builder("model").load()?;
/// # use futures_lite::StreamExt;
/// # let chat = [qwen3_omni::Message::user().text("hello")];
/// let mut events = omni.stream(&chat, &Default::default())?.into_async();
/// let first = async move { events.next().await };
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[must_use = "a stream that is dropped cancels its answer"]
#[derive(Debug)]
pub struct AsyncEvents<A> {
    answer: A,
    ended: bool,
}

/// An answer that can be polled for its next event.
pub(crate) trait PollEvent {
    /// The next item of the stream; `None` after the last.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event>>>;
}

impl<A> AsyncEvents<A> {
    pub(crate) fn new(answer: A) -> Self {
        Self { answer, ended: false }
    }

    /// The answer, to cancel it.
    pub fn answer(&self) -> &A {
        &self.answer
    }
}

impl<A: PollEvent + Unpin> Stream for AsyncEvents<A> {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        let item = ready!(self.answer.poll_event(context));
        self.ended = item.is_none();
        Poll::Ready(item)
    }
}

impl<A: PollEvent + Unpin> FusedStream for AsyncEvents<A> {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}
