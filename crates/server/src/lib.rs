//! An HTTP and WebSocket server for Qwen3-Omni, in the form of OpenAI's API.
//!
//! ```no_run
//! use qwen3_omni::Omni;
//! use qwen3_omni_server::{Config, router};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let omni = Omni::builder("/models/Qwen3-Omni-30B-A3B-Instruct").max_answers(12).load()?;
//! let routes = router(omni, Config::default().model_name("omni").api_keys(["sk-mine"]).max_answers(8));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//! axum::serve(listener, routes).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | path | answers |
//! | --- | --- |
//! | `POST /v1/chat/completions` | text, sound, pictures and video in; text and speech out, whole or streamed; tools and JSON |
//! | `POST /v1/audio/speech` | a text read aloud, sent as it is made |
//! | `POST /v1/audio/transcriptions` | what is said in a recording |
//! | `GET /v1/realtime` | a conversation by voice, on a WebSocket |
//! | `GET /v1/models`, `/v1/audio/voices` | what there is |
//! | `GET /health`, `/metrics` | how it is; Prometheus |
//! | `GET /` | a page to talk to the model |
//!
//! [`Server`] is the same with a handle to drain it; [`serve`] runs it on a listener with the timeouts that an open port needs.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod access;
mod admission;
mod answer;
mod app;
mod audio;
mod body;
mod body_room;
mod chat;
mod config;
mod connections;
mod error;
#[cfg(feature = "remote-media")]
mod fetch;
mod fields;
#[cfg(feature = "program")]
mod flags;
mod ids;
mod media;
mod metrics;
mod models;
mod outbox;
mod outgoing;
mod page;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod parsers;
#[cfg(feature = "program")]
pub mod program;
mod realtime;
mod refusal;
mod serve;
mod socket;
mod sound;
mod spoken_replies;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use qwen3_omni::Omni;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

pub use config::Config;
pub use serve::{Limits, serve};

use app::App;
use error::ApiError;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

/// Makes the routes of a server, to be served alone or merged into those of another service.
pub fn router(omni: Omni, config: Config) -> Router {
    Server::new(omni, config).router()
}

/// A server: its routes, and how it is shut down.
#[derive(Clone)]
pub struct Server {
    app: Arc<App>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("running", &self.running()).finish_non_exhaustive()
    }
}

impl Server {
    /// Makes a server for one model.
    pub fn new(omni: Omni, config: Config) -> Self {
        Self { app: Arc::new(App::new(omni, config)) }
    }

    /// Its routes.
    pub fn router(&self) -> Router {
        let app = self.app.clone();
        let api = Router::new()
            .route("/v1/chat/completions", post(chat::completions))
            .route("/v1/audio/speech", post(audio::speech))
            .route("/v1/audio/speech/stream", get(audio::speech_stream))
            .route("/v1/audio/transcriptions", post(audio::transcriptions))
            .route("/v1/audio/voices", get(models::voices))
            .route("/v1/models", get(models::list))
            // Names of models may hold a slash.
            .route("/v1/models/{*id}", get(models::retrieve))
            .route("/v1/realtime", get(realtime::connect))
            .route_layer(from_fn_with_state(app.clone(), access::check_key));
        let open = Router::new()
            .route("/health", get(models::health))
            .route("/metrics", get(models::metrics))
            .merge(page::routes());
        let routes = api
            .merge(open)
            .fallback(unknown)
            .method_not_allowed_fallback(wrong_method)
            .layer(DefaultBodyLimit::disable())
            .layer(from_fn_with_state(app.clone(), access::check_origin))
            .layer(cors(app.clone()))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(from_fn_with_state(app.clone(), access::count_refused))
            .with_state(app);
        named(routes)
    }

    /// Takes no new work from now on: `/health` and requests answer 503, realtime sessions are closed. What runs goes on.
    pub fn drain(&self) {
        self.app.drain();
    }

    /// Ends what still runs, with the error `shutting_down`, and refuses what waits for a place.
    pub fn cut(&self) {
        self.app.cut();
    }

    /// Waits until all sessions are closed; their clients were sent a close frame then. While the server does not drain, new ones may come.
    pub async fn sessions_closed(&self) {
        self.app.sessions_closed().await;
    }

    /// Answers that are being made, and requests that wait for a place.
    pub fn running(&self) -> usize {
        (self.app.metrics.running.get() + self.app.metrics.waiting.get()).max(0) as usize
    }
}

async fn unknown() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "unknown_url", "there is nothing at this address")
}

async fn wrong_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "unknown_url", "this address takes another method")
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("a request's handler panicked");
    ApiError::internal().into_response()
}

/// Routes whose every answer has the name of its request, and headers for browsers.
pub(crate) fn named(routes: Router) -> Router {
    routes.layer(from_fn(access::observe)).layer(map_response(guard))
}

/// Browsers take what the content type says and nothing else.
async fn guard(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    response
}

/// Lets pages of the allowed origins call.
fn cors(app: Arc<App>) -> CorsLayer {
    let allowed =
        move |origin: &HeaderValue, _: &_| origin.to_str().is_ok_and(|origin| access::is_allowed(&app, origin));
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static("x-request-id"), axum::http::header::RETRY_AFTER])
}
