//! An answer that is being generated for a request.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use qwen3_omni::{AsyncEvents, Event, GenerateOptions, Message, ReplyStream};

use tokio::sync::watch;

use crate::admission::Permit;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::metrics::AnswerClock;

/// An answer with its place. Dropping it cancels it; the place is free when the step that it is in has ended.
pub(crate) struct RunningAnswer {
    /// `None` after an error.
    work: Option<Work>,
    messages: Arc<[Message]>,
    clock: AnswerClock,
    deadline: Instant,
    limit: std::time::Duration,
    cut: watch::Receiver<bool>,
}

/// What is being computed, and its place.
struct Work {
    /// Taken only when it is dropped.
    running: Option<(AsyncEvents<ReplyStream>, Permit)>,
    ended: bool,
}

impl Work {
    fn cancel(&self) {
        if let Some((events, _)) = &self.running {
            events.answer().cancel();
        }
    }

    async fn next(&mut self) -> Option<qwen3_omni::Result<Event>> {
        let (events, _) = self.running.as_mut()?;
        let event = events.next().await;
        self.ended |= matches!(event, Some(Ok(Event::Done(_))));
        event
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.cancel();
        let Some((mut events, permit)) = self.running.take().filter(|_| !self.ended) else { return };
        // What was begun is computed to the end of its step, so its place is not free before.
        let end = async move {
            while events.next().await.is_some() {}
            drop(permit);
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(end);
        }
    }
}

impl RunningAnswer {
    /// Prepares the prompt and begins. This blocks while media are decoded.
    ///
    /// # Errors
    /// 400 for what cannot be answered.
    pub(crate) fn begin(
        app: &App,
        messages: &Arc<[Message]>,
        options: &GenerateOptions,
        requested: Instant,
        permit: Permit,
    ) -> ApiResult<Self> {
        let failed = |error| ApiError::of_answer(&error, messages);
        let prompt = app.omni.prompt(messages, options).map_err(failed)?;
        let held = (prompt.tokens(), app.share_of_positions(prompt.tokens()));
        let events = app.omni.stream_prompt(prompt).map_err(failed)?.into_async();
        let (clock, limit) = (AnswerClock::new(app.metrics.clone(), requested, held), app.config.request_time);
        let work = Some(Work { running: Some((events, permit)), ended: false });
        let (messages, cut) = (messages.clone(), app.is_cut());
        Ok(Self { work, messages, clock, deadline: requested + limit, limit, cut })
    }

    /// The next event; `None` after the last, or after an error.
    ///
    /// # Errors
    /// What ends the answer: a part of the model that failed, time that is over, or the end of the server.
    pub(crate) async fn next(&mut self) -> Option<ApiResult<Event>> {
        let work = self.work.as_mut()?;
        let failed = tokio::select! {
            biased;
            Ok(_) = self.cut.wait_for(|cut| *cut) => ApiError::shutting_down(),
            // Also before an event that is ready: which of both comes first must not be left to chance.
            () = tokio::time::sleep_until(self.deadline.into()) => ApiError::too_slow(self.limit),
            event = work.next() => match event? {
                Ok(event) => {
                    self.clock.observe(&event);
                    return Some(Ok(event));
                }
                Err(error) => ApiError::of_answer(&error, &self.messages),
            },
        };
        self.clock.fail();
        self.work = None;
        Some(Err(failed))
    }

    /// When the answer must be complete, read by its client.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Stops the answer; what is ready still comes, then `Done`.
    pub(crate) fn cancel(&self) {
        if let Some(work) = &self.work {
            work.cancel();
        }
    }
}
