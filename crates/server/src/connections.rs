//! Connections: bounded in number and in time, and closed in order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use crate::Limits;
use crate::admission::places;
use crate::refusal;

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
        let places = Arc::new(Semaphore::new(places(limits.connections) as usize));
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

    /// A place for a connection, for which another one ends as soon as it is idle, if there is none.
    async fn place(&self) -> OwnedSemaphorePermit {
        let mut place = std::pin::pin!(self.places.clone().acquire_owned());
        let place = tokio::select! {
            biased;
            place = place.as_mut() => place,
            () = self.idle.ends_first() => place.await,
        };
        place.expect("it is never closed")
    }

    fn take(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        // Pieces of sound are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        let Ok((stream, twin)) = with_twin(stream) else { return };
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream.as_mut().set_write_timeout_pinned(Some(self.limits.unread));
        let client = Client::new(&self.idle);
        let stream = Flushed { stream, client: client.clone(), refusal: Vec::new() };
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
            // A socket that it became keeps the stream.
            client.leaves();
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }

    /// Lets connections end what they are at; those without work end at once.
    pub(crate) async fn close(&self) {
        self.closing.send_replace(true);
        let _ = self.places.acquire_many(places(self.limits.connections)).await;
    }
}

/// Answers a request of a client, who has work until the last piece of the answer was sent.
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
struct Idle {
    line: Mutex<Line>,
    /// Told of each connection that becomes idle.
    grown: Notify,
}

#[derive(Debug, Default)]
struct Line {
    next: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

impl Idle {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection that has been here for longest, and tells whether there was one.
    fn end_first(&self) -> bool {
        let first = self.line().waiting.pop_first();
        first.map(|(_, makes_room)| makes_room.notify_one()).is_some()
    }

    /// Ends the connection that is here first, or comes first.
    async fn ends_first(&self) {
        while !self.end_first() {
            self.grown.notified().await;
        }
    }
}

/// One connection.
#[derive(Debug)]
struct Client {
    idle: Arc<Idle>,
    /// Its number in that line, if it is there.
    number: AtomicU64,
    /// Whether its answer was made, but not yet sent as a whole.
    sends: AtomicBool,
    makes_room: Arc<Notify>,
}

impl Client {
    fn new(idle: &Arc<Idle>) -> Arc<Self> {
        let client = Self {
            idle: idle.clone(),
            number: AtomicU64::default(),
            sends: AtomicBool::default(),
            makes_room: Arc::default(),
        };
        client.rests();
        Arc::new(client)
    }

    fn rests(&self) {
        let mut line = self.idle.line();
        line.next += 1;
        let number = line.next;
        line.waiting.insert(number, self.makes_room.clone());
        self.number.store(number, Relaxed);
        self.idle.grown.notify_one();
    }

    /// Whether it has no request.
    fn is_idle(&self) -> bool {
        self.idle.line().waiting.contains_key(&self.number.load(Relaxed))
    }

    fn leaves(&self) {
        self.sends.store(false, Relaxed);
        self.idle.line().waiting.remove(&self.number.load(Relaxed));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.leaves();
    }
}

/// A request of a client that is being answered.
struct Work(Arc<Client>);

impl Work {
    fn of(client: Arc<Client>) -> Self {
        client.leaves();
        Self(client)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // The HTTP library has the last piece now, and flushes the stream once the client has taken it.
        self.0.sends.store(true, Relaxed);
    }
}

/// A client's stream, by which it is seen when an answer was sent, and what the HTTP library says to bytes that are no request.
struct Flushed {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    client: Arc<Client>,
    /// What is left to send in place of the library's words.
    refusal: Vec<u8>,
}

impl Flushed {
    /// Takes words of the library's own, which it has only for a client without a request.
    fn takes(&mut self, bytes: &[u8]) -> bool {
        if !refusal::is_like_one(bytes) || !self.client.is_idle() {
            return false;
        }
        let explained = refusal::explained(bytes);
        let takes = explained.is_some();
        self.refusal.extend(explained.into_iter().flatten());
        takes
    }

    fn poll_refusal(&mut self, context: &mut Context) -> Poll<io::Result<()>> {
        while !self.refusal.is_empty() {
            let sent = std::task::ready!(self.stream.as_mut().poll_write(context, &self.refusal))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.refusal.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Flushed {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, bytes: &mut ReadBuf) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(context, bytes)
    }
}

impl AsyncWrite for Flushed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_refusal(context))?;
        if self.takes(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        bytes: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_refusal(context))?;
        if let Some(first) = bytes.first().filter(|first| self.takes(first)) {
            return Poll::Ready(Ok(first.len()));
        }
        self.stream.as_mut().poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_refusal(context))?;
        let flushed = std::task::ready!(self.stream.as_mut().poll_flush(context));
        if self.client.sends.swap(false, Relaxed) {
            self.client.rests();
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_refusal(context))?;
        self.stream.as_mut().poll_shutdown(context)
    }
}

/// A connection, and a second handle of it to watch it by.
fn with_twin(stream: TcpStream) -> io::Result<(TcpStream, TcpStream)> {
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
        let _ = twin.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::body::to_bytes;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// More than the buffers of two sockets hold.
    const LARGE: usize = 64 << 20;

    /// Has one place, sends much, and answers a body that is complete. Tells of each body that it begins to wait for.
    async fn start() -> (SocketAddr, Arc<Notify>) {
        let waits = Arc::new(Notify::new());
        let begun = waits.clone();
        let body = async move |body: Body| {
            begun.notify_one();
            to_bytes(body, 10).await.unwrap()
        };
        let router = Router::new()
            .route("/large", get(|| async { vec![b'a'; LARGE] }))
            .route("/body", post(body))
            .route("/health", get(|| async {}));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new(Arc::new(RwLock::new(router)), Limits::default().connections(1));
        tokio::spawn(async move { connections.accept(&listener).await });
        (address, waits)
    }

    async fn send(address: SocketAddr, request: &str) -> TcpStream {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        socket
    }

    /// Reads until a head, and behind it `length` bytes.
    async fn read(socket: &mut TcpStream, length: usize) {
        let mut bytes = Vec::new();
        let whole = |bytes: &[u8]| bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4 + length);
        while whole(&bytes).is_none_or(|whole| bytes.len() < whole) {
            let read = socket.read_buf(&mut bytes);
            // The clock of a connection without a request runs for a minute.
            let read = tokio::time::timeout(Duration::from_secs(30), read).await.expect("an answer comes").unwrap();
            assert!(read > 0, "it broke off after {} bytes", bytes.len());
        }
    }

    const HEALTH: &str = "GET /health HTTP/1.1\r\nhost: a\r\n\r\n";

    #[tokio::test]
    async fn bytes_that_are_no_request_are_told_why_they_are_refused() {
        let (address, _) = start().await;
        let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(70_000));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
        // Behind a request that was answered, too.
        let second = format!("{HEALTH}no request\r\n\r\n");
        let wrong = [("no request\r\n\r\n", "400"), (&long, "414"), (&many, "431"), (&second, "400")];
        for (bytes, status) in wrong {
            let mut socket = send(address, bytes).await;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            let answer = &answer[answer.rfind("HTTP/1.1 4").unwrap() + "HTTP/1.1 ".len()..];
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(status) && head.contains("x-request-id: req_"), "{answer}");
            assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["error"]["type"], "invalid_request_error");
        }
    }

    #[tokio::test]
    async fn a_whole_answer_that_is_still_being_read_does_not_make_room() {
        let (address, _) = start().await;
        let mut reader = send(address, "GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await;
        // The answer has begun, and all of it is with the HTTP library.
        reader.readable().await.unwrap();
        let mut newcomer = send(address, HEALTH).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        read(&mut reader, LARGE).await;
        read(&mut newcomer, 0).await;
    }

    #[tokio::test]
    async fn a_connection_that_becomes_idle_makes_room_for_one_that_waits() {
        let (address, waits) = start().await;
        let mut first = send(address, "POST /body HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n").await;
        waits.notified().await;
        let mut newcomer = send(address, HEALTH).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        first.write_all(b"a").await.unwrap();
        read(&mut first, 1).await;
        read(&mut newcomer, 0).await;
    }
}
