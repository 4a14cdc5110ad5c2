//! Bodies of requests: bounded in size and time.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use crate::app::App;
use crate::error::{ApiError, ApiResult};

/// Reads a whole body.
///
/// # Errors
/// 413 for one that is too large, before any of it is read if it says so; 408 for one that does not come to its end; 400 for one that
/// breaks off.
pub(crate) async fn read(app: &App, headers: &HeaderMap, body: Body) -> ApiResult<Bytes> {
    let (limit, time) = (app.config.max_body, app.config.body_time);
    check_length(headers, limit)?;
    match tokio::time::timeout(time, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(limit)),
        Ok(Err(_)) => Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", "the body broke off")),
        Err(_) => Err(too_slow(time)),
    }
}

pub(crate) fn too_slow(time: std::time::Duration) -> ApiError {
    let message = format!("the body did not come within {} s", time.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
}

/// Refuses a body by the length that it announces.
///
/// # Errors
/// 413.
pub(crate) fn check_length(headers: &HeaderMap, limit: usize) -> ApiResult<()> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) { Err(too_large(limit)) } else { Ok(()) }
}

pub(crate) fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is larger than {limit} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
}

/// Parses a body as JSON.
///
/// # Errors
/// 400 `invalid_json`, which says where.
pub(crate) fn parse(bytes: &[u8]) -> ApiResult<Value> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("the body is not valid JSON: {error}");
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message)
    })
}
