//! What a user said, written down by a second answer of the same model.

use std::sync::Arc;
use std::time::Instant;

use qwen3_omni::{Event, GenerateOptions, Message};
use serde_json::Value;
use tokio::sync::mpsc::Sender;

use super::worker::Input;
use crate::answer::RunningAnswer;
use crate::app::{App, blocking};
use crate::audio::usage;
use crate::error::{ApiError, ApiResult};

/// News of a transcript.
pub(crate) enum Transcript {
    Piece(String),
    Done { text: String, usage: Value },
    Failed(ApiError),
}

/// Writes down a spoken turn; news come as inputs of the session.
pub(super) async fn transcribe(app: Arc<App>, item_id: String, question: Message, inputs: Sender<Input>) {
    if let Err(error) = write(app, &item_id, question, &inputs).await {
        let _ = inputs.send(Input::Transcript(item_id, Transcript::Failed(error))).await;
    }
}

async fn write(app: Arc<App>, item_id: &str, question: Message, inputs: &Sender<Input>) -> ApiResult<()> {
    let requested = Instant::now();
    let permit = app.admission.admit_one().await?;
    let options = GenerateOptions::default().text_only().max_new_tokens(app.config.max_output_tokens);
    let messages: Arc<[Message]> = [question].into();
    let answer = blocking(move || RunningAnswer::begin(&app, &messages, &options, requested, permit)).await?;
    let mut answer = answer?;
    while let Some(event) = answer.next().await {
        let news = match event? {
            Event::Text(piece) => Transcript::Piece(piece),
            Event::Done(reply) => Transcript::Done { usage: usage(&reply), text: reply.text },
            _ => continue,
        };
        if inputs.send(Input::Transcript(item_id.to_owned(), news)).await.is_err() {
            // The client has gone.
            return Ok(());
        }
    }
    Ok(())
}
