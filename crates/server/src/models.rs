//! What the server has, and how it is.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult};

fn model(app: &App) -> Value {
    json!({
        "id": app.config.model_name,
        "object": "model",
        "created": app.created,
        "owned_by": "qwen3-omni",
        "max_model_len": app.omni.context_length(),
    })
}

/// `GET /v1/models`
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"object": "list", "data": [model(&app)]}))
}

/// `GET /v1/models/{id}`
pub(crate) async fn retrieve(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> ApiResult<Json<Value>> {
    let Path(id) = id.map_err(|error| ApiError::invalid("model", error.body_text()))?;
    app.check_model(Some(&id))?;
    Ok(Json(model(&app)))
}

/// `GET /v1/audio/voices`
pub(crate) async fn voices(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"voices": app.omni.speakers()}))
}

/// `GET /health`
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let (status, word) = match app.is_draining() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false => (StatusCode::OK, "ok"),
    };
    // The page asks before it knows whether it needs a key.
    (status, Json(json!({"status": word, "key_required": !app.config.api_keys.is_empty()}))).into_response()
}

/// `GET /metrics`
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.text()).into_response()
}
