//! Connections: taken while the model loads, bounded in time and number, and closed in order.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

use crate::Server;
use crate::error::ApiError;

/// Bounds of a listener.
#[derive(Debug, Clone, Copy)]
#[must_use]
#[non_exhaustive]
pub struct Limits {
    /// Connections that are open at once; more wait.
    pub connections: usize,
    /// Time for a request's headers, and between two requests of a connection.
    pub headers: Duration,
    /// Time that running answers get when the server is told to stop.
    pub drain: Duration,
}

qwen3_omni::contracts::setters! { Limits {
    connections: usize,
    headers: Duration,
    drain: Duration,
} }

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 4096, headers: Duration::from_secs(60), drain: Duration::from_secs(30) }
    }
}

/// Pause after a connection that could not be taken, as when the process has no file handle left.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// Time for the last words to clients whose answers are cut off, or whose sessions end.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

/// What answers at the moment: the server, or before it is there, that it is loading.
type Current = Arc<RwLock<Router>>;

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
    // Returns when connections must have ended.
    let work = async {
        let server = tokio::select! {
            made = server => made?,
            () = stop() => return Ok(Instant::now()),
        };
        *current.write().unwrap_or_else(PoisonError::into_inner) = server.router();
        stop().await;
        tracing::info!(running = server.running(), "draining");
        server.drain();
        let end = Instant::now() + limits.drain;
        let end = tokio::select! {
            () = idle(&server) => end,
            () = tokio::time::sleep_until(end.into()) => cut(&server),
            () = stop() => cut(&server),
        };
        // Sessions have been told since draining began; those whose clients do not read are not waited for.
        tokio::select! {
            () = server.sessions_closed() => {}
            () = over(&stop, FAREWELL) => {}
        }
        Ok(end)
    };
    tokio::select! {
        never = connections.accept(&listener) => match never {},
        ended = work => {
            drop(listener);
            // What is on its way to slow clients gets the rest of the time.
            let rest = ended.as_ref().map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = connections.close() => {}
                () = over(&stop, rest) => {}
            }
            ended.map(drop)
        }
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

/// Tells clients why their answers end; returns when the connections must have ended.
fn cut(server: &Server) -> Instant {
    server.cut();
    Instant::now() + FAREWELL
}

struct Connections {
    current: Current,
    limits: Limits,
    places: Arc<Semaphore>,
    /// Tells connections that they are to end.
    closing: watch::Sender<bool>,
}

impl Connections {
    fn new(current: Current, limits: Limits) -> Self {
        let places = Arc::new(Semaphore::new(limits.connections));
        Self { current, limits, places, closing: watch::Sender::new(false) }
    }

    async fn accept(&self, listener: &TcpListener) -> Infallible {
        loop {
            let place = self.places.clone().acquire_owned().await.expect("it is never closed");
            match listener.accept().await {
                Ok((stream, _)) => self.take(stream, place),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    fn take(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        // Pieces of sound are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        let Ok((stream, twin)) = with_twin(stream) else { return };
        let current = self.current.clone();
        let service = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
            let router = current.read().unwrap_or_else(PoisonError::into_inner).clone();
            router.oneshot(request.map(axum::body::Body::new))
        });
        let mut builder = Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.limits.headers);
        let service = TowerToHyperService::new(service);
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut closing = self.closing.subscribe();
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = hung_up(&twin) => return,
                _ = closing.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }

    /// Lets connections end what they are at; those without work end at once.
    async fn close(&self) {
        self.closing.send_replace(true);
        let all = u32::try_from(self.limits.connections).unwrap_or(u32::MAX);
        let _ = self.places.acquire_many(all).await;
    }
}

/// A connection, and a second handle of it to watch it by.
fn with_twin(stream: TcpStream) -> std::io::Result<(TcpStream, TcpStream)> {
    let stream = stream.into_std()?;
    let twin = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, TcpStream::from_std(twin)?))
}

/// Waits until the client has closed its side. The HTTP library finds that out by reading, which it does not while an answer is made and
/// bytes lie behind the request, as the line end that some clients send after a body.
async fn hung_up(twin: &TcpStream) {
    while let Ok(ready) = twin.ready(Interest::READABLE).await {
        if ready.is_read_closed() {
            return;
        }
        // Forgets that there is something to read, which is for the other handle, so that only news wake this one.
        let _ = twin.try_io(Interest::READABLE, || Err::<(), _>(std::io::ErrorKind::WouldBlock.into()));
    }
    std::future::pending().await
}

/// Answers everything while the model is being loaded.
fn loading() -> Router {
    let health = || async { (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "loading"}))) };
    let other = || async {
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "loading", "the model is being loaded");
        // The connection would stay with this answer.
        ([(header::CONNECTION, "close")], error).into_response()
    };
    Router::new().route("/health", get(health)).fallback(other)
}
