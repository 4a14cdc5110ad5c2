//! An answer sent when it is complete.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use qwen3_omni::{Audio, Event, FinishReason, Reply};
use serde_json::{Value, json};

use super::log_probs::log_probs_of;
use super::request::ChatRequest;
use super::usage::usage;
use crate::answer::RunningAnswer;
use crate::app::{App, blocking};
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::spoken_replies::expires_at;

/// Waits for all answers, which are made at once.
pub(super) async fn response(
    app: Arc<App>,
    asked: Arc<ChatRequest>,
    answers: Vec<RunningAnswer>,
) -> ApiResult<Response> {
    let replies = answers.into_iter().map(|answer| collect(&asked, answer));
    let replies = futures_util::future::try_join_all(replies).await?;
    // Sound is encoded, and log-probabilities are megabytes.
    blocking(move || Ok(completion(&app, &asked, &replies)?.into_response())).await?
}

fn completion(app: &App, asked: &ChatRequest, replies: &[Reply]) -> ApiResult<Json<Value>> {
    let choices = replies.iter().enumerate().map(|(index, reply)| choice(app, asked, index, reply));
    Ok(Json(json!({
        "id": ids::new("chatcmpl-"),
        "object": "chat.completion",
        "created": ids::now(),
        "model": app.config.model_name,
        "choices": choices.collect::<ApiResult<Vec<_>>>()?,
        "usage": usage(&app.omni, replies),
    })))
}

/// Reads an answer to its end, its sound included. Where one call of a function is allowed, it ends with the first.
async fn collect(asked: &ChatRequest, mut answer: RunningAnswer) -> ApiResult<Reply> {
    let mut samples = Vec::new();
    while let Some(event) = answer.next().await {
        match event? {
            Event::Audio(Audio { samples: piece, .. }) => samples.extend(piece),
            Event::ToolCall(_) if !asked.several_calls => answer.cancel(),
            Event::Done(mut reply) => {
                if let Some(speech) = &mut reply.speech {
                    speech.audio.samples = samples;
                }
                if !asked.several_calls {
                    reply.tool_calls.truncate(1);
                }
                return Ok(*reply);
            }
            _ => {}
        }
    }
    Err(ApiError::internal())
}

fn choice(app: &App, asked: &ChatRequest, index: usize, reply: &Reply) -> ApiResult<Value> {
    let log_probs = asked.options.log_probs.map(|_| log_probs_of(&app.omni, reply));
    Ok(json!({
        "index": index,
        "message": message(app, asked, reply)?,
        "logprobs": log_probs,
        "finish_reason": finish_reason(reply),
    }))
}

fn message(app: &App, asked: &ChatRequest, reply: &Reply) -> ApiResult<Value> {
    let mut message = json!({"role": "assistant", "content": reply.text, "refusal": null});
    if let Some(thinking) = &reply.thinking {
        message[&app.config.reasoning_field] = json!(thinking);
    }
    if !reply.tool_calls.is_empty() {
        if reply.text.is_empty() {
            message["content"] = Value::Null;
        }
        message["tool_calls"] = reply.tool_calls.iter().map(tool_call).collect();
    }
    if let Some(form) = asked.speech.as_ref().filter(|_| is_spoken(reply)) {
        let id = ids::new("audio_");
        app.spoken.keep(&id, &reply.text);
        let silence = Audio { samples: Vec::new(), sample_rate: app.omni.sample_rate() };
        let sound = reply.speech.as_ref().map_or(&silence, |speech| &speech.audio);
        let file = form.format.encode(sound, "audio.format")?;
        message["content"] = Value::Null;
        message["audio"] = json!({
            "id": id,
            "data": BASE64_STANDARD.encode(file),
            "expires_at": expires_at(),
            "transcript": reply.text,
        });
    }
    Ok(message)
}

/// Whether the answer to a request for speech is told as sound, even if there is none. Calls alone are not.
pub(super) fn is_spoken(reply: &Reply) -> bool {
    reply.speech.is_some() || reply.tool_calls.is_empty() || !reply.text.is_empty()
}

/// A call with a new id.
pub(super) fn tool_call(call: &qwen3_omni::ToolCall) -> Value {
    let function = json!({"name": call.name, "arguments": call.arguments.to_string()});
    json!({"id": ids::new("call_"), "type": "function", "function": function})
}

pub(super) fn finish_reason(reply: &Reply) -> &'static str {
    match reply.finish_reason {
        FinishReason::Limit | FinishReason::Context => "length",
        _ if !reply.tool_calls.is_empty() => "tool_calls",
        _ => "stop",
    }
}
