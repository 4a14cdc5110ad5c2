//! Connections of sessions: opened, written to so that a slow client blocks nothing but itself, and ended with a word.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message as Frame, WebSocket, close_code};
use axum::http::StatusCode;
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Receiver;

use crate::app::App;
use crate::error::{ApiError, ApiResult};

/// Result of the negotiation of a WebSocket.
pub(crate) type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Events that wait for the client.
pub(crate) const OUTPUTS: usize = 256;
/// Bytes of a frame that are read at all: more than are allowed, so that a client which sends a little too much is told so instead of
/// finding its connection broken.
const MOST_READ: usize = 24 << 20;
const PING: Duration = Duration::from_secs(20);
/// Time without any frame, or for one to be taken, after which a client has gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// What is sent to the client.
pub(crate) enum Output {
    Event(String),
    Sound(Vec<u8>),
    /// The session ends.
    Close(u16, &'static str),
}

/// Takes a place for a session and accepts its connection.
///
/// # Errors
/// 503 while the server drains, 400 for what is no WebSocket, 429 if all places are taken.
pub(crate) fn accept(app: &Arc<App>, upgrade: Upgrade) -> ApiResult<(WebSocketUpgrade, OwnedSemaphorePermit)> {
    app.check_open()?;
    let refused =
        |error: WebSocketUpgradeRejection| ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", error.to_string());
    let upgrade = upgrade.map_err(refused)?;
    let place = app.sessions.clone().try_acquire_owned();
    let place = place.map_err(|_| ApiError::busy("all places for sessions are taken"))?;
    Ok((upgrade.max_message_size(MOST_READ).max_frame_size(MOST_READ), place))
}

/// The code that tells text that is not UTF-8 from frames that are none.
pub(crate) fn close_code_of(error: &axum::Error) -> u16 {
    if error.to_string().to_lowercase().contains("utf") { close_code::INVALID } else { close_code::PROTOCOL }
}

/// Sends events, and pings to find out whether the client is there, which `heard` tells.
pub(crate) async fn write(mut sink: SplitSink<WebSocket, Frame>, mut outputs: Receiver<Output>, heard: &AtomicBool) {
    let mut pings = tokio::time::interval(PING);
    let mut silent = Duration::ZERO;
    loop {
        let frame = tokio::select! {
            output = outputs.recv() => match output {
                Some(Output::Event(event)) => Frame::text(event),
                Some(Output::Sound(bytes)) => Frame::binary(bytes),
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

/// Waits until the time of a session is over or the server shuts down; returns what its client is told, and the reason in a word.
pub(crate) async fn over(app: &App) -> (ApiError, &'static str) {
    let mut drained = std::pin::pin!(app.drained.notified());
    drained.as_mut().enable();
    tokio::select! {
        biased;
        () = std::future::ready(()), if app.is_draining() => (ApiError::shutting_down(), "shutting down"),
        () = tokio::time::sleep(app.config.session_time) => {
            let message = format!("sessions end after {} s", app.config.session_time.as_secs());
            (ApiError::new(StatusCode::BAD_REQUEST, "session_expired", message), "session expired")
        }
        () = drained => (ApiError::shutting_down(), "shutting down"),
    }
}
