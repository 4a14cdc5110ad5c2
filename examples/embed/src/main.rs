//! Qwen3-Omni inside a web service: written questions answered as server-sent events, and a conversation by voice on a WebSocket.
//!
//! ```sh
//! cargo run --release -- ../assets/nano 127.0.0.1:8080
//! curl -N 'http://127.0.0.1:8080/ask?text=what+is+seven+plus+five'     # text and tool calls, then counts
//! ```
//!
//! `/talk` takes binary messages of f32 samples (little-endian, one channel, 16 kHz) and sends the sound of the answers in the same
//! form at [`RATE`], with events as JSON text in between. The voice is this program's own, to show that any part can be.

use std::convert::Infallible;
use std::error::Error;
use std::f32::consts::TAU;
use std::sync::Arc;

use axum::Router;
use axum::extract::ws::{Message as Frame, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event as Sse, KeepAlive};
use axum::response::{IntoResponse, Response, Sse as SseResponse};
use axum::routing::get;
use futures_util::{SinkExt, StreamExt};
use qwen3_omni::{
    ConversationEvent, ConversationOptions, Event, GenerateOptions, Message, Omni, Vocoder, VocoderStream,
};
use serde::Deserialize;
use serde_json::json;

/// Samples per second of the answers.
const RATE: u32 = 16_000;
/// Samples of a codec frame of 80 ms.
const FRAME: usize = RATE as usize * 80 / 1000;

#[derive(Deserialize)]
struct Ask {
    text: String,
}

/// Answers a written question.
async fn ask(State(omni): State<Arc<Omni>>, Query(ask): Query<Ask>) -> Response {
    // Reading media and encoding text takes a moment: not in a thread that serves others.
    let begun = tokio::task::spawn_blocking(move || {
        let mut session = omni.session();
        session.push(Message::user().text(ask.text));
        session.answer(&GenerateOptions::default().text_only())
    });
    let answer = match begun.await {
        Ok(Ok(answer)) => answer.into_async(),
        Ok(Err(error)) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    };
    // The client that goes away drops the stream, and with it the answer.
    let events = answer.filter_map(|event| async { Some(Ok::<_, Infallible>(to_sse(event)?)) });
    SseResponse::new(events).keep_alive(KeepAlive::default()).into_response()
}

fn to_sse(event: qwen3_omni::Result<Event>) -> Option<Sse> {
    let (name, data) = match event {
        Ok(Event::Text(piece)) => ("text", json!(piece)),
        Ok(Event::ToolCall(call)) => ("tool_call", json!(call)),
        Ok(Event::Done(reply)) => ("done", json!({"finish_reason": reply.finish_reason, "usage": reply.usage})),
        Ok(_) => return None,
        Err(error) => ("error", json!(error.to_string())),
    };
    Some(Sse::default().event(name).data(data.to_string()))
}

async fn talk(State(omni): State<Arc<Omni>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| async move {
        if let Err(error) = converse(&omni, socket).await {
            eprintln!("a conversation ended: {error}");
        }
    })
}

/// Holds a conversation until the client goes away.
async fn converse(omni: &Omni, socket: WebSocket) -> Result<(), Box<dyn Error>> {
    let (conversation, events) = omni.session().converse(ConversationOptions::default())?;
    let (mut out, mut incoming) = socket.split();
    let speak = async move {
        let mut events = events.into_async();
        while let Some(event) = events.next().await {
            let frame = match event {
                Ok(ConversationEvent::Audio(sound)) => {
                    Frame::binary(sound.samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<u8>>())
                }
                Ok(ConversationEvent::Done(reply)) => Frame::text(json!({"done": reply.text}).to_string()),
                Ok(other) => Frame::text(json!({"event": format!("{other:?}")}).to_string()),
                Err(error) => Frame::text(json!({"error": error.to_string()}).to_string()),
            };
            out.send(frame).await?;
        }
        Ok::<(), axum::Error>(())
    };
    let listen = async move {
        while let Some(Ok(frame)) = incoming.next().await {
            match frame {
                Frame::Binary(bytes) => {
                    let (samples, _) = bytes.as_chunks::<4>();
                    let samples: Vec<f32> = samples.iter().map(|sample| f32::from_le_bytes(*sample)).collect();
                    conversation.push(&samples, 16_000);
                }
                Frame::Close(_) => break,
                _ => {}
            }
        }
    };
    tokio::select! {
        spoken = speak => spoken?,
        () = listen => {}
    }
    Ok(())
}

/// A voice that hums: the first code of a frame is its pitch.
struct Hum;

struct Humming {
    phase: f32,
}

impl Vocoder for Hum {
    fn sample_rate(&self) -> u32 {
        RATE
    }

    fn samples_per_frame(&self) -> usize {
        FRAME
    }

    fn start(&self) -> Box<dyn VocoderStream> {
        Box::new(Humming { phase: 0.0 })
    }
}

impl VocoderStream for Humming {
    fn step(&mut self, frames: &[Vec<u32>]) -> qwen3_omni::Result<Vec<f32>> {
        let pitch = |codes: &Vec<u32>| 100.0 + codes.first().map_or(0.0, |code| (code % 128) as f32);
        let pitches = frames.iter().flat_map(|codes| std::iter::repeat_n(pitch(codes), FRAME));
        let samples = pitches.map(|pitch| {
            self.phase = (self.phase + pitch / RATE as f32).fract();
            0.4 * (TAU * self.phase).sin()
        });
        Ok(samples.collect())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "../assets/nano".into());
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let omni = tokio::task::spawn_blocking(move || Omni::builder(model).vocoder(Hum).load()).await??;
    let routes = Router::new().route("/ask", get(ask)).route("/talk", get(talk)).with_state(Arc::new(omni));
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("listening on {address}");
    axum::serve(listener, routes).await?;
    Ok(())
}
