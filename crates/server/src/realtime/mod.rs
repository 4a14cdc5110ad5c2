//! `GET /v1/realtime`: a conversation by voice on a WebSocket, in the events of OpenAI's realtime API.

mod answer;
mod ear;
mod input;
mod item;
mod items;
mod output;
mod prefill;
mod settings;
mod socket;
mod transcriber;
mod turn_detection;
mod weight;
mod worker;

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tracing::{Instrument, Span};

#[cfg(any(test, fuzzing))]
pub(crate) use worker::Worker;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::socket::{Upgrade, accept};

#[derive(Deserialize)]
pub(crate) struct Asked {
    model: Option<String>,
}

/// Opens a session.
pub(crate) async fn connect(
    State(app): State<Arc<App>>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> ApiResult<Response> {
    let Query(asked) = asked.map_err(|error| ApiError::invalid("model", error.body_text()))?;
    app.check_model(asked.model.as_deref())?;
    let (upgrade, place) = accept(&app, upgrade)?;
    tracing::debug!(agent = ?headers.get("user-agent"), "realtime session");
    let upgrade = upgrade.protocols(["realtime"]);
    // What is logged of its answers names the request that opened it.
    let span = Span::current();
    Ok(upgrade.on_upgrade(move |socket| socket::run(app, socket, place).instrument(span)).into_response())
}
