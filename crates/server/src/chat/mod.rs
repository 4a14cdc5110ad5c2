//! `POST /v1/chat/completions`.

mod log_probs;
mod messages;
mod options;
mod request;
mod speech;
mod stream;
mod tools;
mod usage;
mod whole;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;

pub(crate) use request::ChatRequest;
pub(crate) use speech::voice;
pub(crate) use tools::{ToolChoice, tools};

pub(crate) use crate::outgoing::Gone;

use crate::answer::RunningAnswer;
use crate::app::{App, blocking};
use crate::body;
use crate::error::ApiResult;

/// Answers a conversation.
pub(crate) async fn completions(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let requested = Instant::now();
    app.check_open()?;
    let (parts, body) = request.into_parts();
    let (asked, room) = body::read(&app, &parts.headers, body, ChatRequest::read).await?;
    let asked = Arc::new(asked);
    let permits = app.admit(asked.choices).await?;
    let (starter, chat) = (app.clone(), asked.clone());
    let answers = blocking(move || {
        let begin = |(index, permit)| {
            let options = chat.options.clone().seed(chat.options.seed.wrapping_add(index));
            RunningAnswer::begin(&starter, &chat.messages, &options, requested, permit)
        };
        (0..).zip(permits).map(begin).collect::<ApiResult<Vec<_>>>()
    });
    let answers = answers.await??;
    drop(room);
    match asked.stream {
        true => Ok(stream::response(app, asked, answers)),
        false => whole::response(app, asked, answers).await,
    }
}
