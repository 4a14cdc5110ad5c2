//! A server from its first connection, while the model loads, to its orderly end.

use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;

use crate::Server;
use crate::connections::{Connections, Current};
use crate::error::ApiError;

/// Bounds of a listener.
#[derive(Debug, Clone, Copy)]
#[must_use]
#[non_exhaustive]
pub struct Limits {
    /// Connections that are open at once. One more takes the place of the one that has been without a request for longest.
    pub connections: usize,
    /// Time for a request's headers, and between two requests of a connection.
    pub headers: Duration,
    /// Time that a client may take without reading anything of what is sent to it.
    pub unread: Duration,
    /// Time that running answers get when the server is told to stop.
    pub drain: Duration,
}

qwen3_omni::contracts::setters! { Limits {
    connections: usize,
    headers: Duration,
    unread: Duration,
    drain: Duration,
} }

impl Default for Limits {
    fn default() -> Self {
        let [minute, half] = [60, 30].map(Duration::from_secs);
        Self { connections: 4096, headers: minute, unread: minute, drain: half }
    }
}

/// Time for the last words to clients whose answers are cut off, or whose sessions end.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

/// Serves connections while `server` is being made and until it is told to stop. Until it is there, everything is answered with 503.
///
/// `stop` is awaited twice: after the first time the server drains, after the second it ends at once. Answers that are cut off by that, or
/// by the end of [`Limits::drain`], end with the error `shutting_down`, as sessions do when draining begins.
///
/// # Errors
/// The error of `server`.
pub async fn serve<E, S: Future<Output = ()>>(
    listener: TcpListener,
    server: impl Future<Output = Result<Server, E>>,
    stop: impl Fn() -> S,
    limits: Limits,
) -> Result<(), E> {
    let current: Current = Arc::new(RwLock::new(loading()));
    let connections = Connections::new(current.clone(), limits);
    // Returns the server that drains, if it was made, and when it may do so no longer.
    let work = async {
        let server = tokio::select! {
            made = server => made?,
            () = stop() => return Ok(None),
        };
        *current.write().unwrap_or_else(PoisonError::into_inner) = server.router();
        stop().await;
        tracing::info!(running = server.running(), "draining");
        server.drain();
        let end = Instant::now() + limits.drain;
        let end = tokio::select! {
            () = idle(&server) => end,
            () = tokio::time::sleep_until(end.into()) => end,
            () = stop() => Instant::now(),
        };
        Ok(Some((server, end)))
    };
    tokio::select! {
        never = connections.accept(&listener) => match never {},
        ended = work => {
            drop(listener);
            if let Some((server, end)) = ended? {
                take_leave(&server, &connections, &stop, end).await;
            }
            Ok(())
        }
    }
}

/// Closes sessions and connections. What is on its way to slow clients gets the time until `end`; what is then still being made, or began
/// in the moment before draining, is cut off with a word.
async fn take_leave<S: Future<Output = ()>>(
    server: &Server,
    connections: &Connections,
    stop: &impl Fn() -> S,
    end: Instant,
) {
    if end <= Instant::now() {
        server.cut();
    }
    // Sessions have been told since draining began; those whose clients do not read are not waited for.
    tokio::select! {
        () = server.sessions_closed() => {}
        () = over(stop, FAREWELL) => {}
    }
    let mut closing = std::pin::pin!(connections.close());
    tokio::select! {
        () = closing.as_mut() => return,
        () = over(stop, end.saturating_duration_since(Instant::now())) => server.cut(),
    }
    tokio::select! {
        () = closing => {}
        () = over(stop, FAREWELL) => {}
    }
}

/// Waits until a time is over or the server is told to end at once.
async fn over<S: Future<Output = ()>>(stop: &impl Fn() -> S, time: Duration) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = stop() => {}
    }
}

/// Waits until no answer is being made.
async fn idle(server: &Server) {
    while server.running() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers everything while the model is being loaded.
fn loading() -> Router {
    let health = || async { (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "loading"}))) };
    let other = || async {
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "loading", "the model is being loaded");
        // The connection would stay with this answer.
        ([(header::CONNECTION, "close")], error).into_response()
    };
    crate::named(Router::new().route("/health", get(health)).fallback(other))
}
