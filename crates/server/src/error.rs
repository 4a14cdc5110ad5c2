//! Errors in OpenAI's form.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use qwen3_omni::{Error, Message, PartKind};
use serde_json::{Value, json};

/// An error as clients of OpenAI's API read it: `{"error": {"message", "type", "param", "code"}}`, with a status.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The field of the request that is wrong.
    pub(crate) param: Option<String>,
}

/// The codes of refused requests.
pub(crate) const CODES: &[&str] = &[
    "invalid_value",
    "unsupported_value",
    "missing_required_parameter",
    "invalid_json",
    "invalid_base64",
    "invalid_image",
    "invalid_audio",
    "audio_not_found",
    "context_length_exceeded",
    "remote_url_not_allowed",
    "invalid_api_key",
    "origin_not_allowed",
    "host_not_allowed",
    "model_not_found",
    "unknown_url",
    "request_too_large",
    "rate_limit_exceeded",
    "timeout",
    "internal_error",
    "shutting_down",
];

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), param: None }
    }

    /// A field of the request that is wrong.
    pub(crate) fn invalid(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        let message = format!("{param}: {message}");
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, "invalid_value", message) }
    }

    /// A field that must be there and is not.
    pub(crate) fn missing(param: impl Into<String>) -> Self {
        Self::invalid(param, "missing, but required").code("missing_required_parameter")
    }

    /// A value that is understood and not offered.
    pub(crate) fn unsupported(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::invalid(param, message).code("unsupported_value")
    }

    pub(crate) fn internal() -> Self {
        let message = "the server failed at this request; its log has the reason";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is shutting down")
    }

    pub(crate) fn too_slow(limit: std::time::Duration) -> Self {
        let message = format!("the answer was not complete within {} s", limit.as_secs());
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    pub(crate) fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The error of an answer to `messages`.
    pub(crate) fn of_answer(error: &Error, messages: &[Message]) -> Self {
        let invalid =
            |code: &'static str, param: &str| Self::new(StatusCode::BAD_REQUEST, code, error.to_string()).param(param);
        match error {
            Error::Request(_) => invalid("invalid_value", "messages"),
            Error::Grammar(_) => invalid("invalid_value", "response_format"),
            Error::Media { part, .. } => Self::of_media(error, part, messages),
            Error::ContextLength { .. } => invalid("context_length_exceeded", "messages"),
            Error::Unsupported { .. } | Error::NotLoaded(_) => invalid("unsupported_value", "messages"),
            Error::Busy { .. } => Self::busy("all places for answers are taken"),
            _ => {
                tracing::error!(%error, "an answer failed");
                Self::internal()
            }
        }
    }

    /// The error of media, whose part the library names as "message 2, part 1".
    fn of_media(error: &Error, part: &str, messages: &[Message]) -> Self {
        let mut numbers = part.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<usize>().ok());
        let place = numbers.next().zip(numbers.next());
        let found = place.and_then(|(message, part)| messages.get(message - 1)?.parts().get(part - 1));
        let code = match found.map(qwen3_omni::Part::kind) {
            Some(PartKind::Image) => "invalid_image",
            Some(PartKind::Audio) => "invalid_audio",
            _ => "invalid_value",
        };
        let param = match place {
            Some((message, part)) => format!("messages[{}].content[{}]", message - 1, part - 1),
            None => "messages".to_owned(),
        };
        Self::new(StatusCode::BAD_REQUEST, code, error.to_string()).param(param)
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The object under `error`.
    pub(crate) fn to_json(&self) -> Value {
        json!({"message": self.message, "type": self.kind(), "param": self.param, "code": self.code})
    }
}

/// Seconds after which a refused request may be sent again.
const RETRY_AFTER: &str = "1";

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({"error": self.to_json()}))).into_response();
        let mut put = |name: HeaderName, value| {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        };
        match self.status {
            StatusCode::UNAUTHORIZED => put(header::WWW_AUTHENTICATE, "Bearer"),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => put(header::RETRY_AFTER, RETRY_AFTER),
            // What is left of a body that is too large is not read.
            StatusCode::PAYLOAD_TOO_LARGE => put(header::CONNECTION, "close"),
            _ => {}
        }
        response.extensions_mut().insert(Refused(self.code));
        response
    }
}

/// The code of an error, for the metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused(pub(crate) &'static str);
