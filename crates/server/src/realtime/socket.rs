//! The connection of a session: frames in, frames out, each way on its own so that a slow client blocks nothing but itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message as Frame, WebSocket, close_code};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::worker::{Input, Worker};
use crate::app::App;
use crate::error::ApiError;

/// Frames that wait for the worker.
const INPUTS: usize = 64;
/// Events that wait for the client.
const OUTPUTS: usize = 256;
/// Bytes of a frame; a larger one ends the session.
const MOST_FRAME: usize = 16 << 20;
const PING: Duration = Duration::from_secs(20);
/// Time without any frame, or for one to be taken, after which a client has gone.
const SILENCE: Duration = Duration::from_secs(60);

/// What is sent to the client.
pub(crate) enum Output {
    Event(String),
    /// The session ends.
    Close(u16, &'static str),
}

/// Holds a session until the client goes, its time is over, or the server shuts down.
pub(super) async fn run(app: Arc<App>, socket: WebSocket, _place: OwnedSemaphorePermit) {
    app.metrics.sessions.inc();
    let (inputs, received) = channel(INPUTS);
    let (outputs, events) = channel(OUTPUTS);
    let (sink, stream) = socket.split();
    let worker = Worker::new(app.clone(), inputs.clone(), received, outputs);
    let spawned = std::thread::Builder::new().name("realtime session".into()).spawn(move || worker.run());
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for a session");
    }
    let heard = AtomicBool::new(false);
    tokio::select! {
        () = read(stream, &inputs, &heard) => {}
        () = write(sink, events, &heard) => {}
        () = end(&app, &inputs) => {}
    }
    // The worker takes what is on its way, sends none of it, and ends.
    let _ = inputs.send(Input::Gone).await;
    app.metrics.sessions.dec();
}

/// Passes frames on to the worker.
async fn read(mut stream: SplitStream<WebSocket>, inputs: &Sender<Input>, heard: &AtomicBool) {
    while let Some(frame) = stream.next().await {
        heard.store(true, Ordering::Relaxed);
        let input = match frame {
            Ok(Frame::Text(text)) if text.len() > MOST_FRAME => {
                Input::End(None, close_code::SIZE, "the frame is larger than 16 MiB")
            }
            Ok(Frame::Text(text)) => Input::Client(text.as_str().to_owned()),
            Ok(Frame::Binary(_)) => Input::Binary,
            Ok(Frame::Ping(_) | Frame::Pong(_)) => continue,
            Ok(Frame::Close(_)) => return,
            Err(error) => Input::End(None, close_code_of(&error), "the frame cannot be read"),
        };
        if inputs.send(input).await.is_err() {
            // The worker has ended the session; the writer closes it.
            return std::future::pending().await;
        }
    }
}

/// Tells text that is not UTF-8 from frames that are none.
fn close_code_of(error: &axum::Error) -> u16 {
    if error.to_string().to_lowercase().contains("utf") { close_code::INVALID } else { close_code::PROTOCOL }
}

/// Sends events, and pings to find out whether the client is there.
async fn write(mut sink: SplitSink<WebSocket, Frame>, mut events: Receiver<Output>, heard: &AtomicBool) {
    let mut pings = tokio::time::interval(PING);
    let mut silent = Duration::ZERO;
    loop {
        let frame = tokio::select! {
            output = events.recv() => match output {
                Some(Output::Event(event)) => Frame::text(event),
                Some(Output::Close(code, reason)) => {
                    let close = Frame::Close(Some(CloseFrame { code, reason: reason.into() }));
                    let _ = tokio::time::timeout(SILENCE, sink.send(close)).await;
                    return;
                }
                None => return,
            },
            _ = pings.tick() => {
                silent = if heard.swap(false, Ordering::Relaxed) { Duration::ZERO } else { silent + PING };
                if silent > SILENCE {
                    return;
                }
                Frame::Ping(Vec::new().into())
            }
        };
        if !matches!(tokio::time::timeout(SILENCE, sink.send(frame)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Ends the session when its time is over or the server shuts down; the client is told.
async fn end(app: &App, inputs: &Sender<Input>) {
    let mut drained = std::pin::pin!(app.drained.notified());
    drained.as_mut().enable();
    let (error, reason) = tokio::select! {
        biased;
        () = std::future::ready(()), if app.is_draining() => (ApiError::shutting_down(), "shutting down"),
        () = tokio::time::sleep(app.config.session_time) => {
            let message = format!("sessions end after {} s", app.config.session_time.as_secs());
            (ApiError::new(axum::http::StatusCode::BAD_REQUEST, "session_expired", message), "session expired")
        }
        () = drained => (ApiError::shutting_down(), "shutting down"),
    };
    let _ = inputs.send(Input::End(Some(error), close_code::AWAY, reason)).await;
    // The writer closes after the last event.
    tokio::time::sleep(SILENCE).await;
}
