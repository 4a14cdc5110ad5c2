//! An answer that is being generated for a request.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use qwen3_omni::{AsyncEvents, Event, GenerateOptions, Message, ReplyStream};

use crate::admission::Permit;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::metrics::AnswerClock;

/// An answer with its place. Dropping it cancels it and frees the place.
pub(crate) struct RunningAnswer {
    events: AsyncEvents<ReplyStream>,
    messages: Arc<[Message]>,
    clock: AnswerClock,
    deadline: Instant,
    limit: std::time::Duration,
    _permit: Permit,
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
        let positions = app.config.max_answers * app.omni.context_length();
        let held = prompt.tokens() as f64 / positions as f64;
        let events = app.omni.stream_prompt(prompt).map_err(failed)?.into_async();
        let (clock, limit) = (AnswerClock::new(app.metrics.clone(), requested, held), app.config.request_time);
        Ok(Self { events, messages: messages.clone(), clock, deadline: requested + limit, limit, _permit: permit })
    }

    /// The next event; `None` after the last.
    ///
    /// # Errors
    /// What ends the answer: a part of the model that failed, or time that is over.
    pub(crate) async fn next(&mut self) -> Option<ApiResult<Event>> {
        let next = tokio::time::timeout_at(self.deadline.into(), self.events.next()).await;
        let failed = match next {
            Ok(None) => return None,
            Ok(Some(Ok(event))) => {
                self.clock.observe(&event);
                return Some(Ok(event));
            }
            Ok(Some(Err(error))) => ApiError::of_answer(&error, &self.messages),
            Err(_) => ApiError::too_slow(self.limit),
        };
        self.clock.fail();
        Some(Err(failed))
    }

    /// Stops the answer; what is ready still comes, then `Done`.
    pub(crate) fn cancel(&self) {
        self.events.answer().cancel();
    }
}
