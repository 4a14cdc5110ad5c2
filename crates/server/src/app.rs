//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qwen3_omni::Omni;
use tokio::sync::{Notify, Semaphore, watch};

use crate::admission::{Admission, Permit, places};
use crate::body_room;
use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::media::MediaReader;
use crate::metrics::Metrics;
use crate::spoken_replies::SpokenReplies;

pub(crate) struct App {
    pub(crate) omni: Omni,
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) admission: Admission,
    /// Room for bodies of requests.
    pub(crate) bodies: Arc<Semaphore>,
    /// Places for realtime sessions.
    pub(crate) sessions: Arc<Semaphore>,
    pub(crate) spoken: SpokenReplies,
    pub(crate) media: MediaReader,
    pub(crate) created: u64,
    draining: AtomicBool,
    /// Is told when the server begins to drain.
    pub(crate) drained: Notify,
    /// Whether answers that still run are cut off.
    cut: watch::Sender<bool>,
}

impl App {
    pub(crate) fn new(omni: Omni, config: Config) -> Self {
        let metrics =
            Arc::new(Metrics::new(&config.model_name).expect("the names of the metrics are valid and differ"));
        let admission = Admission::new(config.max_answers, config.max_waiting, config.queue_time, metrics.clone());
        Self {
            admission,
            bodies: body_room::room(config.max_body),
            sessions: Arc::new(Semaphore::new(places(config.max_sessions) as usize)),
            spoken: SpokenReplies::default(),
            media: MediaReader::new(&config),
            created: ids::now(),
            draining: AtomicBool::new(false),
            drained: Notify::new(),
            cut: watch::Sender::new(false),
            omni,
            config,
            metrics,
        }
    }

    /// Takes no new work from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.drained.notify_waiters();
    }

    /// Ends the answers that still run, with an error, and refuses what waits for a place.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
        self.admission.close();
    }

    /// Turns true when answers are cut off.
    pub(crate) fn is_cut(&self) -> watch::Receiver<bool> {
        self.cut.subscribe()
    }

    /// Waits until no place for a session is taken.
    pub(crate) async fn sessions_closed(&self) {
        let _ = self.sessions.acquire_many(places(self.config.max_sessions)).await;
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Refuses new work while the server drains.
    ///
    /// # Errors
    /// 503 `shutting_down`.
    pub(crate) fn check_open(&self) -> ApiResult<()> {
        if self.is_draining() { Err(ApiError::shutting_down()) } else { Ok(()) }
    }

    /// Waits for the places of the answers of a request that was read: the server may have begun to drain meanwhile.
    ///
    /// # Errors
    /// The errors of [`App::check_open`] and [`Admission::admit`].
    pub(crate) async fn admit(&self, count: usize) -> ApiResult<Vec<Permit>> {
        self.check_open()?;
        self.admission.admit(count).await
    }

    /// Waits for the place of one answer as [`App::admit`] does.
    pub(crate) async fn admit_one(&self) -> ApiResult<Permit> {
        self.check_open()?;
        self.admission.admit_one().await
    }

    /// The share that these tokens are of all positions of the answers that can run at once.
    pub(crate) fn share_of_positions(&self, tokens: usize) -> f64 {
        tokens as f64 / (self.config.max_answers * self.omni.context_length()) as f64
    }

    /// Checks the model that a request names.
    ///
    /// # Errors
    /// 404 `model_not_found`.
    pub(crate) fn check_model(&self, name: Option<&str>) -> ApiResult<()> {
        match name {
            Some(name) if name != self.config.model_name => {
                let name = crate::fields::brief(name);
                let message = format!("there is no model `{name}` here, only `{}`", self.config.model_name);
                let not_found = axum::http::StatusCode::NOT_FOUND;
                Err(ApiError::new(not_found, "model_not_found", message).param("model"))
            }
            _ => Ok(()),
        }
    }

    /// Checks the name of a speaker, given in the field `param`.
    ///
    /// # Errors
    /// 400 that lists the speakers.
    pub(crate) fn check_voice(&self, name: &str, param: String) -> ApiResult<()> {
        let speakers = self.omni.speakers();
        if speakers.iter().any(|speaker| speaker.eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        let name = crate::fields::brief(name);
        Err(ApiError::invalid(
            param,
            format_args!("there is no voice `{name}`, expected one of {}", speakers.join(", ")),
        ))
    }
}

/// Runs work that takes a while where it keeps no other request waiting.
///
/// # Errors
/// 500 if it panics.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> ApiResult<T> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.map_err(|error| {
        tracing::error!(%error, "a request's work stopped");
        ApiError::internal()
    })
}
