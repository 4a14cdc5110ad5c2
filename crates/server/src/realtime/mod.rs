//! `GET /v1/realtime`: a conversation by voice on a WebSocket, in the events of OpenAI's realtime API.

mod answer;
mod ear;
mod items;
mod output;
mod prefill;
mod settings;
mod socket;
mod transcriber;
mod turn_detection;
mod worker;

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, State, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

#[cfg(any(test, fuzzing))]
pub(crate) use worker::Worker;

use crate::app::App;
use crate::error::{ApiError, ApiResult};

/// Bytes of a frame that are read at all: more than are allowed, so that a client which sends a little too much is told so instead of
/// finding its connection broken.
const MOST_READ: usize = 24 << 20;

#[derive(Deserialize)]
pub(crate) struct Asked {
    model: Option<String>,
}

/// Opens a session.
pub(crate) async fn connect(
    State(app): State<Arc<App>>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    app.check_open()?;
    let Query(asked) = asked.map_err(|error| ApiError::invalid("model", error.body_text()))?;
    app.check_model(asked.model.as_deref())?;
    let status = axum::http::StatusCode::BAD_REQUEST;
    let upgrade = upgrade.map_err(|error| ApiError::new(status, "invalid_value", error.to_string()))?;
    let place = app.sessions.clone().try_acquire_owned();
    let place = place.map_err(|_| ApiError::busy("all places for realtime sessions are taken"))?;
    tracing::debug!(agent = ?headers.get("user-agent"), "realtime session");
    let upgrade = upgrade.protocols(["realtime"]).max_message_size(MOST_READ).max_frame_size(MOST_READ);
    Ok(upgrade.on_upgrade(move |socket| socket::run(app, socket, place)).into_response())
}
