//! Connections of sessions: opened, read and written so that a slow client blocks nothing but itself, and closed as the protocol wants.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message as Frame, Utf8Bytes, WebSocket, close_code};
use axum::http::StatusCode;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::outbox::{Output, Outputs};
use crate::serve::FAREWELL;

/// Result of the negotiation of a WebSocket.
pub(crate) type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Bytes of a frame that are read at all: more than are allowed, so that a client which sends a little too much is told so when it has sent
/// all of it.
const MOST_READ: usize = 24 << 20;
const PING: Duration = Duration::from_secs(20);
/// Time without any frame, or for one to be taken, after which a client has gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// Whether a client is there.
#[derive(Default)]
pub(crate) struct Pulse {
    /// Whether something came since this was last asked for.
    heard: AtomicBool,
    /// Whether the last frame has not been taken yet, so that no other is read.
    busy: AtomicBool,
}

impl Pulse {
    fn is_felt(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed) || self.busy.load(Ordering::Relaxed)
    }
}

/// What a client sends.
pub(crate) enum Received {
    Text(Utf8Bytes),
    Binary,
    /// Ends the session with this code and reason; nothing follows.
    Refused(u16, &'static str),
}

/// The frames that come from a client.
pub(crate) struct Frames<'a> {
    stream: SplitStream<WebSocket>,
    pulse: &'a Pulse,
    /// Bytes of a frame.
    most: usize,
    /// What is said of a larger one.
    too_large: &'static str,
    unreadable: bool,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(stream: SplitStream<WebSocket>, pulse: &'a Pulse, most: usize, too_large: &'static str) -> Self {
        Self { stream, pulse, most, too_large, unreadable: false }
    }

    /// The next frame; `None` when the client has gone, its close frame answered if it sent one.
    pub(crate) async fn next(&mut self) -> Option<Received> {
        self.pulse.busy.store(false, Ordering::Relaxed);
        let received = self.read().await;
        self.pulse.busy.store(true, Ordering::Relaxed);
        received
    }

    async fn read(&mut self) -> Option<Received> {
        while !self.unreadable {
            let frame = self.stream.next().await?;
            self.pulse.heard.store(true, Ordering::Relaxed);
            match frame {
                Ok(Frame::Text(text)) if text.len() <= self.most => return Some(Received::Text(text)),
                Ok(Frame::Binary(bytes)) if bytes.len() <= self.most => return Some(Received::Binary),
                Ok(Frame::Text(_) | Frame::Binary(_)) => return Some(self.refuse_size()),
                // A close frame is answered by reading on.
                Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Close(_)) => {}
                Err(error) => return self.refuse(error),
            }
        }
        // The writer, which tells the client why, ends the session.
        std::future::pending().await
    }

    fn refuse_size(&self) -> Received {
        Received::Refused(close_code::SIZE, self.too_large)
    }

    /// Tells what is wrong with a frame that cannot be read; `None` if the connection broke off.
    fn refuse(&mut self, error: axum::Error) -> Option<Received> {
        self.unreadable = true;
        match error.into_inner().downcast_ref() {
            Some(Error::Io(_) | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => None,
            Some(Error::Capacity(_)) => Some(self.refuse_size()),
            Some(Error::Utf8(_)) => Some(Received::Refused(close_code::INVALID, "the text is not UTF-8")),
            _ => Some(Received::Refused(close_code::PROTOCOL, "the frame cannot be read")),
        }
    }
}

/// Holds a connection until the client has gone, or until it was sent a close frame and had time to answer that.
pub(crate) async fn hold(reads: impl Future<Output = ()>, writes: impl Future<Output = ()>) {
    let mut reads = pin!(reads);
    tokio::select! {
        () = reads.as_mut() => {}
        () = writes => drop(tokio::time::timeout(FAREWELL, reads).await),
    }
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

/// Sends events, and pings to find out whether the client is there. Ends with a close frame, or when the client takes
/// nothing more.
pub(crate) async fn write(mut sink: SplitSink<WebSocket, Frame>, mut outputs: Outputs, pulse: &Pulse) {
    let mut pings = tokio::time::interval(PING);
    let mut silent = Duration::ZERO;
    loop {
        let (frame, _room) = tokio::select! {
            output = outputs.recv() => match output {
                Some((output, room)) => (frame(output), Some(room)),
                None => (close(close_code::ERROR, "the session failed"), None),
            },
            _ = pings.tick() => {
                silent = if pulse.is_felt() { Duration::ZERO } else { silent + PING };
                match silent > SILENCE {
                    true => (close(close_code::ERROR, "no answer to pings"), None),
                    false => (Frame::Ping(Vec::new().into()), None),
                }
            }
        };
        let last = matches!(frame, Frame::Close(_));
        let sent = tokio::time::timeout(SILENCE, sink.send(frame)).await;
        if last || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

fn frame(output: Output) -> Frame {
    match output {
        Output::Event(event) => Frame::text(event),
        Output::Sound(bytes) => Frame::binary(bytes),
        Output::Close(code, reason) => close(code, reason),
    }
}

fn close(code: u16, reason: &'static str) -> Frame {
    Frame::Close(Some(CloseFrame { code, reason: reason.into() }))
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
