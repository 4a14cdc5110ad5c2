//! Connections: bounded in number and in time, and closed in order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use crate::Limits;

/// Pause after a connection that could not be taken, as when the process has no file handle left.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// What answers at the moment: the server, or before it is there, that it is loading.
pub(crate) type Current = Arc<RwLock<Router>>;

/// The open connections of a listener.
pub(crate) struct Connections {
    current: Current,
    limits: Limits,
    places: Arc<Semaphore>,
    idle: Arc<Idle>,
    /// Tells connections that they are to end.
    closing: watch::Sender<bool>,
}

impl Connections {
    pub(crate) fn new(current: Current, limits: Limits) -> Self {
        let places = Arc::new(Semaphore::new(limits.connections));
        Self { current, limits, places, idle: Arc::default(), closing: watch::Sender::new(false) }
    }

    /// Takes connections until it is dropped.
    pub(crate) async fn accept(&self, listener: &TcpListener) -> Infallible {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.take(stream, self.place().await),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    /// A place for a connection, for which another one ends if there is none.
    async fn place(&self) -> OwnedSemaphorePermit {
        if self.places.available_permits() == 0 {
            self.idle.end_first();
        }
        self.places.clone().acquire_owned().await.expect("it is never closed")
    }

    fn take(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        // Pieces of sound are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        let Ok((stream, twin)) = with_twin(stream) else { return };
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream.as_mut().set_write_timeout_pinned(Some(self.limits.unread));
        let client = Client::new(&self.idle);
        let (current, asking) = (self.current.clone(), client.clone());
        let service = tower::service_fn(move |request| answer(current.clone(), asking.clone(), request));
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
                () = client.makes_room.notified() => return,
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
    pub(crate) async fn close(&self) {
        self.closing.send_replace(true);
        let all = u32::try_from(self.limits.connections).unwrap_or(u32::MAX);
        let _ = self.places.acquire_many(all).await;
    }
}

/// Answers a request of a client, who has work until the last piece of the answer was taken.
async fn answer(
    current: Current,
    client: Arc<Client>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response, Infallible> {
    let work = Work::of(client);
    let router = current.read().unwrap_or_else(PoisonError::into_inner).clone();
    let response = router.oneshot(request.map(Body::new)).await?;
    let held = move |frame| {
        let _ = &work;
        frame
    };
    Ok(response.map(|body| Body::new(body.map_frame(held))))
}

/// Connections without a request, in the order in which they became so.
#[derive(Debug, Default)]
struct Idle(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    next: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

impl Idle {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection that has been here for longest.
    fn end_first(&self) {
        if let Some((_, makes_room)) = self.line().waiting.pop_first() {
            makes_room.notify_one();
        }
    }
}

/// One connection.
#[derive(Debug)]
struct Client {
    idle: Arc<Idle>,
    /// Its number in that line, if it is there.
    number: AtomicU64,
    makes_room: Arc<Notify>,
}

impl Client {
    fn new(idle: &Arc<Idle>) -> Arc<Self> {
        let client = Self { idle: idle.clone(), number: AtomicU64::default(), makes_room: Arc::default() };
        client.rests();
        Arc::new(client)
    }

    fn rests(&self) {
        let mut line = self.idle.line();
        line.next += 1;
        let number = line.next;
        line.waiting.insert(number, self.makes_room.clone());
        self.number.store(number, Relaxed);
    }

    fn works(&self) {
        self.idle.line().waiting.remove(&self.number.load(Relaxed));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.works();
    }
}

/// A request of a client that is being answered.
struct Work(Arc<Client>);

impl Work {
    fn of(client: Arc<Client>) -> Self {
        client.works();
        Self(client)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.rests();
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
