//! The connection of a session: frames in, frames out, each way on its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::ws::{Message as Frame, WebSocket, close_code};
use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Sender, channel};

use super::worker::{Input, Worker};
use crate::app::App;
use crate::socket::{self, OUTPUTS, SILENCE};

/// Frames that wait for the worker.
const INPUTS: usize = 64;
/// Bytes of a frame; a larger one ends the session.
const MOST_FRAME: usize = 16 << 20;

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
        () = socket::write(sink, events, &heard) => {}
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
            Err(error) => Input::End(None, socket::close_code_of(&error), "the frame cannot be read"),
        };
        if inputs.send(input).await.is_err() {
            // The worker has ended the session; the writer closes it.
            return std::future::pending().await;
        }
    }
}

/// Ends the session when its time is over or the server shuts down; the client is told.
async fn end(app: &App, inputs: &Sender<Input>) {
    let (error, reason) = socket::over(app).await;
    let _ = inputs.send(Input::End(Some(error), close_code::AWAY, reason)).await;
    // The writer closes after the last event.
    tokio::time::sleep(SILENCE).await;
}
