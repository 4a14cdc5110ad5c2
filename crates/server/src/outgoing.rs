//! Bodies that are sent while they are made. One ends well only if the work that makes it does: after an error, after a panic, or when its
//! time is over, a file breaks off and a stream of events ends with an error event.

use std::convert::Infallible;
use std::future::Future;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use crate::error::{ApiError, ApiResult};

/// Pieces that wait for a slow client; then the answer waits.
const PIECES: usize = 16;
/// Time without an event after which a comment is sent: proxies cut idle streams.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Time in which a client must take a piece.
const STALL: Duration = Duration::from_secs(60);
/// Time beyond that of an answer in which it may still be read.
const SLOWEST: Duration = Duration::from_secs(10);
/// The last event of a stream.
pub(crate) const DONE: &str = "[DONE]";

/// The client has gone, or took nothing for a while.
pub(crate) struct Gone;

impl From<Gone> for ApiError {
    fn from(Gone: Gone) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "the client did not read the answer in time")
    }
}

/// Sends a piece to a client; one that takes nothing for a while has gone, too.
pub(crate) async fn send_data<T>(sender: &Sender<T>, data: T) -> Result<(), Gone> {
    match tokio::time::timeout(STALL, sender.send(data)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Gone),
    }
}

pub(crate) async fn send(sender: &Sender<String>, event: Value) -> Result<(), Gone> {
    send_data(sender, event.to_string()).await
}

/// Runs `work` in a task and returns what it sends, and its error behind that. The task ends early when the client has gone, or when it
/// has not read everything a while after `deadline`.
fn pieces<T, W>(
    deadline: Instant,
    work: impl FnOnce(Sender<T>) -> W,
) -> impl Stream<Item = ApiResult<T>> + Send + 'static
where
    T: Send + 'static,
    W: Future<Output = ApiResult<()>> + Send + 'static,
{
    let (sender, pieces) = channel(PIECES);
    let task = tokio::spawn(until_gone(deadline, sender.clone(), work(sender)));
    stream::unfold(Some((pieces, task)), |open| async {
        let (mut pieces, task): (Receiver<T>, _) = open?;
        match pieces.recv().await {
            Some(piece) => Some((Ok(piece), Some((pieces, task)))),
            None => failure(task).await.map(|error| (Err(error), None)),
        }
    })
}

async fn until_gone<T>(
    deadline: Instant,
    sender: Sender<T>,
    work: impl Future<Output = ApiResult<()>>,
) -> ApiResult<()> {
    tokio::select! {
        done = work => done,
        () = sender.closed() => Ok(()),
        () = tokio::time::sleep_until((deadline + SLOWEST).into()) => Err(Gone.into()),
    }
}

async fn failure(task: JoinHandle<ApiResult<()>>) -> Option<ApiError> {
    match task.await {
        Ok(ended) => ended.err(),
        Err(error) => {
            tracing::error!(%error, "an answer's sending stopped");
            Some(ApiError::internal())
        }
    }
}

/// A file whose bytes `work` sends.
pub(crate) fn file<W>(deadline: Instant, work: impl FnOnce(Sender<Vec<u8>>) -> W) -> Body
where
    W: Future<Output = ApiResult<()>> + Send + 'static,
{
    Body::from_stream(pieces(deadline, work).map_err(|error| error.message))
}

/// A response of server-sent events whose data `work` sends. An error of `work` is an event, too, and [`DONE`] follows it.
pub(crate) fn events<W>(deadline: Instant, work: impl FnOnce(Sender<String>) -> W) -> Response
where
    W: Future<Output = ApiResult<()>> + Send + 'static,
{
    let data = pieces(deadline, work).flat_map(|piece| match piece {
        Ok(data) => stream::iter(vec![data]),
        Err(error) => stream::iter(vec![json!({"error": error.to_json()}).to_string(), DONE.to_owned()]),
    });
    let events = data.map(|data| Ok::<_, Infallible>(Event::default().data(data)));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // Nginx holds streams back unless it is told.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    /// The ends of work that does not send everything.
    async fn cut(sender: Sender<String>, end: &'static str) -> ApiResult<()> {
        for _ in 0..PIECES {
            let _ = sender.send("piece".to_owned()).await;
        }
        match end {
            "panics" => panic!("an encoder"),
            "fails" => Err(ApiError::internal()),
            _ => loop {
                send_data(&sender, "more than can be read".to_owned()).await?;
            },
        }
    }

    fn deadline(end: &str) -> Instant {
        let now = Instant::now();
        if end == "is over" { now.checked_sub(SLOWEST).unwrap() } else { now + Duration::from_secs(60) }
    }

    #[tokio::test]
    async fn work_that_does_not_end_well_breaks_a_file_off() {
        for end in ["panics", "fails", "is over"] {
            let body = file(deadline(end), |sender| async move {
                let (text, mut pieces) = channel(PIECES);
                let (ended, ()) = tokio::join!(cut(text, end), async {
                    while let Some(piece) = pieces.recv().await {
                        let _ = send_data(&sender, piece.into_bytes()).await;
                    }
                });
                ended
            });
            assert!(body.collect().await.is_err(), "{end}");
        }
        let whole = file(deadline(""), |sender| async move { Ok(send_data(&sender, vec![1, 2]).await?) });
        assert_eq!(whole.collect().await.unwrap().to_bytes().as_ref(), [1, 2]);
    }

    #[tokio::test]
    async fn work_that_does_not_end_well_ends_events_with_an_error() {
        for (end, code) in [("panics", "internal_error"), ("fails", "internal_error"), ("is over", "timeout")] {
            let body = events(deadline(end), |sender| cut(sender, end)).into_body();
            let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
            let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            let [.., error, done] = &data[..] else { panic!("{text}") };
            assert!(error.contains(code) && *done == DONE, "{end}: {error}");
        }
    }
}
