//! An answer sent as server-sent events while it is made.

use std::sync::Arc;
use std::time::Instant;

use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use qwen3_omni::{Audio, Event, Reply, ToolCall};
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

use super::log_probs::{TextToken, TextTokens, log_probs};
use super::request::ChatRequest;
use super::usage::usage;
use super::whole::{finish_reason, is_spoken, tool_call};
use crate::answer::RunningAnswer;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::outgoing::{self, DONE, Gone, send, send_data};
use crate::sound::pcm;
use crate::spoken_replies::expires_at;

/// Sends all answers in one stream.
pub(super) fn response(app: Arc<App>, asked: Arc<ChatRequest>, answers: Vec<RunningAnswer>) -> Response {
    let deadline = answers.iter().map(RunningAnswer::deadline).min().unwrap_or_else(Instant::now);
    outgoing::events(deadline, |sender| send_all(app, asked, answers, sender))
}

async fn send_all(
    app: Arc<App>,
    asked: Arc<ChatRequest>,
    answers: Vec<RunningAnswer>,
    sender: Sender<String>,
) -> ApiResult<()> {
    let (id, created) = (ids::new("chatcmpl-"), ids::now());
    let choices = answers.into_iter().enumerate().map(|(index, answer)| {
        let stream = ChoiceStream {
            app: app.clone(),
            asked: asked.clone(),
            id: id.clone(),
            created,
            index,
            sender: sender.clone(),
            audio_id: ids::new("audio_"),
            held: None,
            tokens: TextTokens::default(),
            told: Vec::new(),
            calls: 0,
        };
        stream.run(answer)
    });
    // One that fails ends no other.
    let ended = futures_util::future::join_all(choices).await;
    let replies = ended.into_iter().collect::<ApiResult<Vec<Reply>>>()?;
    if asked.include_usage {
        let usage = usage(&app.omni, &replies);
        let chunk = json!({"id": id, "object": CHUNK, "created": created, "model": app.config.model_name,
            "choices": [], "usage": usage});
        send(&sender, chunk).await?;
    }
    Ok(send_data(&sender, DONE.into()).await?)
}

const CHUNK: &str = "chat.completion.chunk";

/// The chunks of one choice.
struct ChoiceStream {
    app: Arc<App>,
    asked: Arc<ChatRequest>,
    id: String,
    created: u64,
    index: usize,
    sender: Sender<String>,
    audio_id: String,
    /// The last piece of a spoken text. It is sent with the first sound or the next piece, so that words and sound come in turns even
    /// where the text is complete before the first sound.
    held: Option<String>,
    tokens: TextTokens,
    /// Tokens whose log-probabilities are sent with the next chunk.
    told: Vec<TextToken>,
    /// Calls of functions so far.
    calls: usize,
}

impl ChoiceStream {
    async fn run(mut self, mut answer: RunningAnswer) -> ApiResult<Reply> {
        let opening = if self.asked.speech.is_some() { json!({}) } else { json!({"content": ""}) };
        self.chunk(with_role(opening), None).await?;
        while let Some(event) = answer.next().await {
            match event? {
                Event::Text(piece) => self.text(piece).await?,
                Event::Thinking(piece) => {
                    let delta = json!({ self.app.config.reasoning_field.as_str(): piece });
                    self.chunk(delta, None).await?;
                }
                Event::Audio(audio) => self.audio(&audio).await?,
                Event::LogProbs(place) => self.tokens.push(&self.app.omni, place),
                Event::ToolCall(call) if self.calls == 0 || self.asked.several_calls => {
                    self.call(&call).await?;
                    if !self.asked.several_calls {
                        answer.cancel();
                    }
                }
                Event::Done(reply) => {
                    self.finish(&reply).await?;
                    return Ok(*reply);
                }
                _ => {}
            }
        }
        Err(ApiError::internal())
    }

    async fn text(&mut self, piece: String) -> Result<(), Gone> {
        self.told.extend(self.tokens.text(&piece));
        if self.asked.speech.is_none() {
            return self.chunk(json!({"content": piece}), None).await;
        }
        match self.held.replace(piece) {
            Some(before) => self.transcript(before).await,
            None => Ok(()),
        }
    }

    async fn transcript(&mut self, piece: String) -> Result<(), Gone> {
        let audio = json!({"id": self.audio_id, "transcript": piece});
        self.chunk(json!({ "audio": audio }), None).await
    }

    async fn release(&mut self) -> Result<(), Gone> {
        match self.held.take() {
            Some(piece) => self.transcript(piece).await,
            None => Ok(()),
        }
    }

    async fn audio(&mut self, audio: &Audio) -> Result<(), Gone> {
        let bytes: Vec<u8> = pcm(&audio.to_i16()).collect();
        let audio = json!({"id": self.audio_id, "data": BASE64_STANDARD.encode(bytes)});
        self.chunk(json!({ "audio": audio }), None).await?;
        self.release().await
    }

    /// A call: first its name, then its arguments.
    async fn call(&mut self, call: &ToolCall) -> Result<(), Gone> {
        let mut opening = tool_call(call);
        let arguments = opening["function"]["arguments"].take();
        opening["index"] = json!(self.calls);
        opening["function"]["arguments"] = json!("");
        self.chunk(json!({"tool_calls": [opening]}), None).await?;
        let rest = json!({"index": self.calls, "function": {"arguments": arguments}});
        self.calls += 1;
        self.chunk(json!({"tool_calls": [rest]}), None).await
    }

    async fn finish(&mut self, reply: &Reply) -> Result<(), Gone> {
        self.release().await?;
        if self.asked.speech.is_some() && is_spoken(reply) {
            self.app.spoken.keep(&self.audio_id, &reply.text);
            let audio = json!({"id": self.audio_id, "expires_at": expires_at()});
            self.chunk(json!({ "audio": audio }), None).await?;
        }
        self.told.extend(self.tokens.finish());
        self.chunk(json!({}), Some(finish_reason(reply))).await
    }

    async fn chunk(&mut self, delta: Value, finish_reason: Option<&str>) -> Result<(), Gone> {
        let told = std::mem::take(&mut self.told);
        let log_probs = (!told.is_empty()).then(|| log_probs(&self.app.omni, &told));
        let choice =
            json!({"index": self.index, "delta": delta, "logprobs": log_probs, "finish_reason": finish_reason});
        let mut chunk = json!({"id": self.id, "object": CHUNK, "created": self.created,
            "model": self.app.config.model_name, "choices": [choice]});
        if self.asked.include_usage {
            chunk["usage"] = Value::Null;
        }
        send(&self.sender, chunk).await
    }
}

fn with_role(mut delta: Value) -> Value {
    delta["role"] = json!("assistant");
    delta
}
