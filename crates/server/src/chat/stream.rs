//! An answer sent as server-sent events while it is made.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use qwen3_omni::{Audio, Event, Reply, TokenLogProbs, ToolCall};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::log_probs::log_probs;
use super::request::ChatRequest;
use super::spoken::expires_at;
use super::usage::usage;
use super::whole::{finish_reason, tool_call};
use crate::answer::RunningAnswer;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::sound::pcm;

/// Events that wait for a slow client; then the answer waits.
const EVENTS: usize = 16;
/// Time without an event after which a comment is sent: proxies cut idle streams.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Time in which a client must take an event.
const STALL: Duration = Duration::from_secs(60);
/// Time beyond that of an answer in which it may still be read.
const SLOWEST: Duration = Duration::from_secs(10);

/// Sends all answers in one stream.
pub(super) fn response(app: Arc<App>, asked: Arc<ChatRequest>, answers: Vec<RunningAnswer>) -> Response {
    let (sender, events) = channel(EVENTS);
    tokio::spawn(send_all(app, asked, answers, sender));
    events_response(events)
}

/// The response whose body these events are.
pub(crate) fn events_response(events: Receiver<String>) -> Response {
    let events = futures_util::stream::unfold(events, |mut events| async {
        let data = events.recv().await?;
        Some((Ok::<_, Infallible>(SseEvent::default().data(data)), events))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // Nginx holds streams back unless it is told.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// The client has gone.
pub(crate) struct Gone;

/// Runs until the answers end or the client goes, and drops the answers with it.
async fn send_all(app: Arc<App>, asked: Arc<ChatRequest>, answers: Vec<RunningAnswer>, sender: Sender<String>) {
    let id = ids::new("chatcmpl-");
    let created = ids::now();
    let Some(deadline) = answers.first().map(RunningAnswer::deadline) else { return };
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
            log_probs: Vec::new(),
            calls: 0,
        };
        stream.run(answer)
    });
    let all = futures_util::future::join_all(choices);
    let Some(ended) = until_gone(deadline, &sender, all).await else { return };
    // Whoever reads the end has gone, or has read everything.
    let _ = finish(&app, &asked, (&id, created), ended, &sender).await;
}

async fn finish(
    app: &App,
    asked: &ChatRequest,
    (id, created): (&str, u64),
    ended: Vec<Result<ApiResult<Reply>, Gone>>,
    sender: &Sender<String>,
) -> Result<(), Gone> {
    let ended = ended.into_iter().collect::<Result<ApiResult<Vec<Reply>>, Gone>>()?;
    match ended {
        Ok(replies) if asked.include_usage => {
            let usage = usage(&app.omni, &replies);
            let chunk = json!({"id": id, "object": CHUNK, "created": created, "model": app.config.model_name,
                "choices": [], "usage": usage});
            send(sender, chunk).await?;
        }
        Ok(_) => {}
        Err(error) => send(sender, json!({"error": error.to_json()})).await?,
    }
    send_data(sender, "[DONE]".into()).await
}

const CHUNK: &str = "chat.completion.chunk";

pub(crate) async fn send(sender: &Sender<String>, event: Value) -> Result<(), Gone> {
    send_data(sender, event.to_string()).await
}

/// Sends data to a client; one that takes nothing for a while has gone, too.
pub(crate) async fn send_data<T>(sender: &Sender<T>, data: T) -> Result<(), Gone> {
    match tokio::time::timeout(STALL, sender.send(data)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Gone),
    }
}

/// Runs until the answer is sent, or its client has gone or is so slow that its time is over.
pub(crate) async fn until_gone<T, O>(
    deadline: Instant,
    sender: &Sender<T>,
    work: impl Future<Output = O>,
) -> Option<O> {
    tokio::select! {
        done = work => Some(done),
        () = sender.closed() => None,
        () = tokio::time::sleep_until((deadline + SLOWEST).into()) => None,
    }
}

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
    /// Log-probabilities of tokens whose text was not sent yet.
    log_probs: Vec<TokenLogProbs>,
    /// Calls of functions so far.
    calls: usize,
}

impl ChoiceStream {
    async fn run(mut self, mut answer: RunningAnswer) -> Result<ApiResult<Reply>, Gone> {
        let opening = if self.asked.speech.is_some() { json!({}) } else { json!({"content": ""}) };
        self.chunk(with_role(opening), None).await?;
        while let Some(event) = answer.next().await {
            match event {
                Ok(Event::Text(piece)) => self.text(piece).await?,
                Ok(Event::Thinking(piece)) => {
                    let delta = json!({ self.app.config.reasoning_field.as_str(): piece });
                    self.chunk(delta, None).await?;
                }
                Ok(Event::Audio(audio)) => self.audio(&audio).await?,
                Ok(Event::LogProbs(place)) => self.log_probs.push(place),
                Ok(Event::ToolCall(call)) if self.calls == 0 || self.asked.several_calls => {
                    self.call(&call).await?;
                    if !self.asked.several_calls {
                        answer.cancel();
                    }
                }
                Ok(Event::Done(reply)) => {
                    self.finish(&reply).await?;
                    return Ok(Ok(*reply));
                }
                Ok(_) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Err(ApiError::internal()))
    }

    async fn text(&mut self, piece: String) -> Result<(), Gone> {
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
        if self.asked.speech.is_some() && reply.speech.is_some() {
            self.app.spoken.keep(&self.audio_id, &reply.text);
            let audio = json!({"id": self.audio_id, "expires_at": expires_at()});
            self.chunk(json!({ "audio": audio }), None).await?;
        }
        self.chunk(json!({}), Some(finish_reason(reply))).await
    }

    async fn chunk(&mut self, delta: Value, finish_reason: Option<&str>) -> Result<(), Gone> {
        let places = std::mem::take(&mut self.log_probs);
        let log_probs = (!places.is_empty()).then(|| log_probs(&self.app.omni, &places));
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
