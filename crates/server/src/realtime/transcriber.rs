//! What a user said, written down by a second answer of the same model.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use qwen3_omni::{Event, GenerateOptions, Message, Reply};
use tokio::sync::mpsc::Sender;

use super::input::{Input, Transcript};
use crate::answer::RunningAnswer;
use crate::app::{App, blocking};
use crate::audio::usage;
use crate::error::{ApiError, ApiResult};

/// Writes down a spoken turn; news come as inputs of the session. The last of them, behind which nothing is done any more, is
/// [`Transcript::Done`] or [`Transcript::Failed`].
pub(super) async fn transcribe(app: Arc<App>, item_id: String, question: Message, inputs: Sender<Input>) {
    let last = last_news(write(app, &item_id, question, &inputs)).await;
    // Without a session nobody waits for it.
    let _ = inputs.send(Input::Transcript(item_id, last)).await;
}

/// What is told of a transcript when it has ended. One that panics has failed as well, or its client and the turns behind it would wait.
async fn last_news(work: impl Future<Output = ApiResult<Box<Reply>>>) -> Transcript {
    // Nothing that it had begun is used afterwards.
    let ended = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a transcript panicked");
        Err(ApiError::internal())
    });
    match ended {
        Ok(reply) => Transcript::Done { usage: usage(&reply), text: reply.text },
        Err(error) => Transcript::Failed(error),
    }
}

async fn write(app: Arc<App>, item_id: &str, question: Message, inputs: &Sender<Input>) -> ApiResult<Box<Reply>> {
    let requested = Instant::now();
    let permit = app.admission.admit_one().await?;
    let options = GenerateOptions::default().text_only().max_new_tokens(app.config.max_output_tokens);
    let messages: Arc<[Message]> = [question].into();
    let answer = blocking(move || RunningAnswer::begin(&app, &messages, &options, requested, permit)).await?;
    let mut answer = answer?;
    while let Some(event) = answer.next().await {
        match event? {
            Event::Text(piece) => {
                let _ = inputs.send(Input::Transcript(item_id.to_owned(), Transcript::Piece(piece))).await;
            }
            Event::Done(reply) => return Ok(reply),
            _ => {}
        }
    }
    Err(ApiError::internal())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_transcript_that_panics_has_failed() {
        let told = last_news(async { panic!("a transcript") }).await;
        assert!(matches!(told, Transcript::Failed(error) if error.code == "internal_error"));
    }
}
