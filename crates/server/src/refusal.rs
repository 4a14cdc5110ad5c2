//! What the HTTP library says to a client whose bytes are no request, in the form of all other errors.

use axum::http::StatusCode;

use crate::error::ApiError;
use crate::ids;

/// How the library begins its own answers; those of the server are told apart by when they are sent.
const BEGIN: &[u8] = b"HTTP/1.1 4";
/// The end of a head without a body.
const END: &[u8] = b"\r\n\r\n";

/// Whether bytes look as the library's own answers do; heads of the server's do, too.
pub(crate) fn is_like_one(bytes: &[u8]) -> bool {
    bytes.starts_with(BEGIN) && bytes.ends_with(END)
}

/// The library's answer to bytes that it cannot read, with a name, a reason and a body, and a line in the log.
pub(crate) fn explained(answer: &[u8]) -> Option<Vec<u8>> {
    let status = StatusCode::from_bytes(answer.get(9..12)?).ok()?;
    let (code, reason) = match status {
        StatusCode::URI_TOO_LONG => ("request_too_large", "the address of the request is too long"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ("request_too_large", "the request has too many or too long headers")
        }
        _ => ("invalid_value", "no HTTP/1.1 request: its head could not be read"),
    };
    let error = ApiError::new(status, code, reason);
    let (id, body) = (ids::new("req_"), serde_json::json!({"error": error.to_json()}).to_string());
    tracing::info!(id, status = status.as_u16(), "no request");
    let head = format!(
        "HTTP/1.1 {status}\r\nx-request-id: {id}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    Some([head.into_bytes(), body.into_bytes()].concat())
}
