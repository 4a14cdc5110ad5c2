//! Bodies of requests: bounded in size and time, one by one and all together.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::app::{App, blocking};
use crate::body_room::{Room, is_beyond, no_room};
use crate::error::{ApiError, ApiResult};
use crate::media::{Awaited, RequestMedia};

/// Values of a JSON body. Each takes far more memory than it has bytes; a bias for every token of a vocabulary is less.
const MOST_VALUES: usize = 1 << 19;

/// Why a body is not read to its end, on its way through libraries.
#[derive(Debug)]
struct Refusal(ApiError);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl Error for Refusal {}

/// The error of a body that was read through [`bounded`], whatever wraps it; `None` if the body itself broke off.
pub(crate) fn refusal(error: &(dyn Error + 'static)) -> Option<ApiError> {
    match error.downcast_ref::<Refusal>() {
        Some(Refusal(told)) => Some(told.clone()),
        None => refusal(error.source()?),
    }
}

/// The body with its bounds on size, and the room that it takes while it is read.
///
/// # Errors
/// 413 for one that says it is too large, 429 for one that says it is larger than what is free.
pub(crate) fn bounded(app: &App, headers: &HeaderMap, body: Body) -> ApiResult<(Body, Room)> {
    let (limit, free) = (app.config.max_body, app.bodies.clone());
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match announced.or(body.size_hint().exact()) {
        Some(length) if length > limit as u64 => return Err(too_large(limit)),
        Some(length) if is_beyond(&free, length) => return Err(no_room()),
        _ => {}
    }
    let (room, mut read) = (Room::default(), 0_usize);
    let grown = room.clone();
    let pieces = body.into_data_stream().map(move |piece| {
        let piece: Bytes = piece?;
        read = read.saturating_add(piece.len());
        let checked = if read > limit { Err(too_large(limit)) } else { grown.grow(&free, read) };
        checked.map(|()| piece).map_err(|error| axum::Error::new(Refusal(error)))
    });
    Ok((Body::from_stream(pieces), room))
}

/// Reads a whole body and parses it where that keeps no other request waiting; `parse` is given the request's media. The room is the
/// request's until it is dropped.
///
/// # Errors
/// 503 if the server ends meanwhile; 413 for one that is too large and 429 without room for it, before any of it is read if it says its length; 408 for one that does not
/// come to its end; 400 for one that breaks off; the errors of `parse`.
pub(crate) async fn read<T: Send + 'static>(
    app: &Arc<App>,
    headers: &HeaderMap,
    body: Body,
    parse: impl FnOnce(&App, &[u8], &RequestMedia) -> ApiResult<T> + Send + 'static,
) -> ApiResult<(T, Room)> {
    let (body, room) = bounded(app, headers, body)?;
    let (owned, kept, awaited) = (app.clone(), room.clone(), Awaited::default());
    let over = awaited.over();
    let parsed = async move {
        let bytes = collect(body, owned.config.body_time).await?;
        blocking(move || {
            // Parsing goes on when the client has gone, and so does what it takes.
            let _kept = kept;
            parse(&owned, &bytes, &owned.media.of_request().until(over))
        })
        .await?
    };
    Ok((unless_cut(app, parsed).await?, room))
}

/// Waits for what is being read, but not beyond the end of the server.
///
/// # Errors
/// 503 `shutting_down`, and those of `work`.
pub(crate) async fn unless_cut<T>(app: &App, work: impl Future<Output = ApiResult<T>>) -> ApiResult<T> {
    let mut cut = app.is_cut();
    tokio::select! {
        biased;
        done = work => done,
        Ok(_) = cut.wait_for(|cut| *cut) => Err(ApiError::shutting_down()),
    }
}

async fn collect(body: Body, time: Duration) -> ApiResult<Bytes> {
    let broke_off = || ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", "the body broke off");
    match tokio::time::timeout(time, body.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) => Err(refusal(&error).unwrap_or_else(broke_off)),
        Err(_) => Err(too_slow(time)),
    }
}

pub(crate) fn too_slow(time: Duration) -> ApiError {
    let message = format!("the body did not come within {} s", time.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is larger than {limit} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
}

/// Parses a body as JSON.
///
/// # Errors
/// 400 `invalid_json`, which says where, or that there are too many values.
pub(crate) fn parse(bytes: &[u8]) -> ApiResult<Value> {
    let wrong = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message);
    if most_values(bytes) > MOST_VALUES {
        return Err(wrong(format!("the body holds more than {MOST_VALUES} values")));
    }
    serde_json::from_slice(bytes).map_err(|error| wrong(format!("the body is not valid JSON: {error}")))
}

/// Values that JSON can hold at most: one follows each opening bracket, and each comma outside of strings.
fn most_values(json: &[u8]) -> usize {
    let (mut in_string, mut escaped) = (false, false);
    let begins = json.iter().filter(|byte| {
        let begins = !in_string && matches!(byte, b'[' | b'{' | b',');
        in_string ^= **byte == b'"' && !escaped;
        escaped = in_string && **byte == b'\\' && !escaped;
        begins
    });
    1 + begins.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (json, count) in [(r#"{"a": [1, 2], "b": "[,\"[,\\"}"#, 5), ("3", 1), (r#"["\\", []]"#, 4)] {
            assert_eq!(most_values(json.as_bytes()), count, "{json}");
        }
        let many = format!("{{\"x\": [{}[]]}}", "[],".repeat(MOST_VALUES));
        assert!(parse(many.as_bytes()).unwrap_err().message.contains("values"));
    }
}
