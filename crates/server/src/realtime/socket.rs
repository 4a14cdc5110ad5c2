//! The connection of a session: frames in, frames out, each way on its own.

use std::sync::Arc;

use axum::extract::ws::{WebSocket, close_code};
use futures_util::StreamExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Sender, channel};
use tracing::Span;

use super::input::Input;
use super::worker::Worker;
use crate::app::App;
use crate::metrics::OpenSession;
use crate::outbox::{Outbox, Room};
use crate::socket::{self, Frames, Pulse, Received, SILENCE};

/// Frames that wait for the worker.
const INPUTS: usize = 64;
/// Room of the smallest frame: frames may wait while files are fetched, and without a text they take memory, too.
const LEAST_ROOM: usize = 1 << 10;
/// Bytes of a frame; a larger one ends the session.
const MOST_FRAME: usize = 16 << 20;

/// Holds a session until the client goes, its time is over, or the server shuts down.
pub(super) async fn run(app: Arc<App>, socket: WebSocket, _place: OwnedSemaphorePermit) {
    let _counted = OpenSession::new(&app.metrics);
    let (inputs, received) = channel(INPUTS);
    let (outbox, outputs) = Outbox::new();
    let (sink, stream) = socket.split();
    let worker = Worker::new(app.clone(), inputs.clone(), received, outbox);
    let span = Span::current();
    let work = move || span.in_scope(|| worker.run());
    let spawned = std::thread::Builder::new().name("realtime session".into()).spawn(work);
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for a session");
    }
    let pulse = Pulse::default();
    let frames = Frames::new(stream, &pulse, MOST_FRAME, "the frame is larger than 16 MiB");
    tokio::select! {
        () = socket::hold(read(frames, &inputs), socket::write(sink, outputs, &pulse)) => {}
        () = end(&app, &inputs) => {}
    }
    // The worker takes what is on its way, sends none of it, and ends.
    let _ = inputs.send(Input::Gone).await;
}

/// Passes frames on to the worker. What comes after the worker has ended the session is dropped.
async fn read(mut frames: Frames<'_>, inputs: &Sender<Input>) {
    let room = Room::new();
    while let Some(received) = frames.next().await {
        let input = match received {
            Received::Text(text) => {
                let taken = room.take(text.len().max(LEAST_ROOM)).await;
                Input::Client(text, taken)
            }
            Received::Binary => Input::Binary,
            Received::Refused(code, reason) => Input::End(None, code, reason),
        };
        let _ = inputs.send(input).await;
    }
}

/// Ends the session when its time is over or the server shuts down; the client is told.
async fn end(app: &App, inputs: &Sender<Input>) {
    let (error, reason) = socket::over(app).await;
    let _ = inputs.send(Input::End(Some(error), close_code::AWAY, reason)).await;
    // The writer closes after the last event.
    tokio::time::sleep(SILENCE).await;
}
