//! Who may ask: keys, origins of web pages, host names; and a name for each request.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use tracing::Instrument;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Refused};
use crate::ids;

/// Before a key among the protocols that a page offers for its WebSocket, for which browsers set no other header.
const KEY_PROTOCOL: &str = "openai-insecure-api-key.";
const REQUEST_ID: &str = "x-request-id";
/// A longer name of a request is not repeated.
const MOST_REQUEST_ID: usize = 128;

/// Counts what was refused.
pub(crate) async fn count_refused(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if let Some(Refused(code)) = response.extensions().get() {
        app.metrics.refuse(code);
    }
    response
}

/// Names each request and logs how it ended.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let own = request.headers().get(REQUEST_ID).filter(|id| (1..=MOST_REQUEST_ID).contains(&id.len())).cloned();
    let id = own.unwrap_or_else(|| HeaderValue::try_from(ids::new("req_")).expect("letters and digits"));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let started = std::time::Instant::now();
    let id_text = id.to_str().unwrap_or("-").to_owned();
    // What is logged of its answers later names it, too.
    let span = tracing::info_span!("request", id = id_text);
    let mut response = next.run(request).instrument(span).await;
    let (status, ms) = (response.status().as_u16(), started.elapsed().as_millis());
    tracing::info!(id = id_text, %method, path, status, ms, "request");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Refuses requests for a host name that is not the server's, and those of pages from elsewhere.
pub(crate) async fn check_origin(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let checked = check_host(&app, request.headers(), request.uri()).and_then(|()| match *request.method() {
        // What a page may ask is answered to its browser, which then does not ask.
        Method::OPTIONS => Ok(()),
        _ => check_page(&app, request.headers()),
    });
    match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Refuses requests without a key, if the server has any.
pub(crate) async fn check_key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match has_key(&app, request.headers()) {
        true => next.run(request).await,
        false => {
            let message = "no valid key: expected `Authorization: Bearer KEY` with a key of this server";
            ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).into_response()
        }
    }
}

fn has_key(app: &App, headers: &HeaderMap) -> bool {
    let keys = &app.config.api_keys;
    let given = |key: &str| {
        // All keys are compared, and each in a time that does not tell how much of it is right.
        keys.iter().fold(false, |found, known| found | bool::from(known.as_bytes().ct_eq(key.as_bytes())))
    };
    keys.is_empty() || bearer(headers).is_some_and(given) || protocol_key(headers).is_some_and(given)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn protocol_key(headers: &HeaderMap) -> Option<&str> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut protocols = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    protocols.find_map(|protocol| protocol.trim().strip_prefix(KEY_PROTOCOL))
}

/// The host name that the client used, without its port.
fn host<'r>(headers: &'r HeaderMap, uri: &'r Uri) -> Option<&'r str> {
    let header = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = header.or_else(|| uri.authority().map(|authority| authority.as_str()))?;
    let after_address = host.rfind(']').map_or(0, |end| end + 1);
    Some(host[after_address..].find(':').map_or(host, |colon| &host[..after_address + colon]))
}

fn check_host(app: &App, headers: &HeaderMap, uri: &Uri) -> ApiResult<()> {
    let Some(allowed) = &app.config.allowed_hosts else { return Ok(()) };
    // Browsers always name the host; health checks of old proxies do not.
    let Some(host) = host(headers, uri) else { return Ok(()) };
    if allowed.iter().any(|name| name.eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    let host = crate::fields::brief(host);
    let message = format!("this server does not answer as `{host}`; its operator can allow that name");
    Err(ApiError::new(StatusCode::FORBIDDEN, "host_not_allowed", message))
}

/// A page cannot know a key, so where one is needed only WebSockets are looked at, whose answers browsers let any page read.
fn check_page(app: &App, headers: &HeaderMap) -> ApiResult<()> {
    if !app.config.api_keys.is_empty() && !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return Ok(());
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    if is_own(origin, headers) || is_allowed(app, origin) {
        return Ok(());
    }
    let message = "pages of this origin may not use this server; its operator can allow it";
    Err(ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", message))
}

/// Whether an origin is one of those that were named.
pub(crate) fn is_allowed(app: &App, origin: &str) -> bool {
    app.config.allowed_origins.iter().any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin))
}

/// Whether an origin is this server, by the name that the browser reached it under.
fn is_own(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    origin.split_once("://").map(|(_, authority)| authority) == host && host.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn keys_are_found_where_clients_put_them() {
        assert_eq!(bearer(&headers(&[("authorization", "Bearer sk-a")])), Some("sk-a"));
        assert_eq!(bearer(&headers(&[("authorization", "bearer  sk-a ")])), Some("sk-a"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic sk-a")])), None);
        let offered = headers(&[("sec-websocket-protocol", "realtime, openai-insecure-api-key.sk-a, x")]);
        assert_eq!(protocol_key(&offered), Some("sk-a"));
    }

    #[test]
    fn a_host_is_read_without_its_port() {
        let uri = Uri::from_static("/");
        for (value, expected) in
            [("localhost:8000", "localhost"), ("127.0.0.1", "127.0.0.1"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")]
        {
            assert_eq!(host(&headers(&[("host", value)]), &uri), Some(expected));
        }
    }

    #[test]
    fn only_the_very_origin_is_the_servers_own() {
        let own = headers(&[("host", "localhost:8000")]);
        assert!(is_own("http://localhost:8000", &own));
        assert!(!is_own("http://localhost", &own) && !is_own("http://evil.example", &own) && !is_own("null", &own));
        assert!(!is_own("null", &headers(&[])));
    }
}
