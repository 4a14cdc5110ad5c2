//! `GET /v1/audio/speech/stream`: a text read aloud while it is being written, on a WebSocket in the events of vLLM-Omni.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::extract::ws::{Utf8Bytes, WebSocket, close_code};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use qwen3_omni::GenerateOptions;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use super::sentences::{Sentences, pieces};
use super::speech::{Piece, next, nothing_spoken, prompt, whole};
use super::speech_events::{ClientEvent, Settings, Task, Tasks};
use crate::answer::RunningAnswer;
use crate::app::{App, blocking};
use crate::chat::Gone;
use crate::error::{ApiError, ApiResult};
use crate::metrics::OpenSession;
use crate::outbox::{Outbox, Output, Room, Taken};
use crate::socket::{self, Frames, Pulse, Received, Upgrade, accept};
use crate::sound::BackgroundEncoder;

/// Bytes of text that wait to be read aloud; then the client waits.
const WAITING: u32 = 1 << 20;
/// Bytes of a frame; a larger one ends the session.
const MOST_FRAME: usize = 1 << 20;

/// Tasks that wait, each with its room.
type Waiting = UnboundedReceiver<(Task, Taken)>;

/// Opens a session.
pub(crate) async fn connect(State(app): State<Arc<App>>, upgrade: Upgrade) -> ApiResult<Response> {
    let (upgrade, place) = accept(&app, upgrade)?;
    // What is logged of its answers names the request that opened it.
    let span = Span::current();
    // A page that gives its key as a protocol needs one that is chosen.
    let upgrade = upgrade.protocols(["realtime"]);
    Ok(upgrade.on_upgrade(move |socket| run(app, socket, place).instrument(span)).into_response())
}

/// Holds a session until its text is read, the client goes, its time is over, or the server shuts down.
async fn run(app: Arc<App>, socket: WebSocket, _place: OwnedSemaphorePermit) {
    let _counted = OpenSession::new(&app.metrics);
    let (queue, waiting) = unbounded_channel();
    let (outbox, outputs) = Outbox::new();
    let outbox = Arc::new(outbox);
    let work = work(app.clone(), waiting, outbox.clone());
    let (sink, stream) = socket.split();
    let pulse = Pulse::default();
    let frames = Frames::new(stream, &pulse, MOST_FRAME, "the frame is larger than 1 MiB");
    let listener = Listener { app: &app, outbox: &outbox, tasks: Tasks::default(), queue, room: Room::of(WAITING) };
    tokio::select! {
        () = socket::hold(listen(listener, frames), socket::write(sink, outputs, &pulse)) => {}
        never = speak(work, socket::over(&app), &outbox) => match never {},
    }
}

/// Takes the client's frames until the client goes. While one waits, the next is read, too: it may be the last.
async fn listen(mut listener: Listener<'_>, mut frames: Frames<'_>) {
    let mut next = frames.next().await;
    while let Some(received) = next {
        let mut taken = pin!(listener.take(received));
        next = tokio::select! {
            // What need not wait is told before the end that follows it.
            biased;
            () = &mut taken => frames.next().await,
            following = frames.next() => {
                if let Some(Received::Text(_) | Received::Binary) = following {
                    taken.await;
                }
                following
            }
        };
    }
}

/// Passes on what the client's frames ask for.
struct Listener<'a> {
    app: &'a Arc<App>,
    outbox: &'a Outbox,
    tasks: Tasks,
    queue: UnboundedSender<(Task, Taken)>,
    room: Room,
}

impl Listener<'_> {
    /// Takes a frame. Text waits until there is room for it in the queue; what is wrong is told at once.
    async fn take(&mut self, received: Received) {
        let told = match received {
            Received::Text(event) => match self.task(event).await {
                Ok(None) => return,
                Ok(Some(task)) => {
                    let taken = self.room.take(task.bytes()).await;
                    // What comes after the end of the session is dropped.
                    let _ = self.queue.send((task, taken));
                    return;
                }
                Err(error) => refusal(&error),
            },
            Received::Binary => refusal(&ApiError::invalid("type", "a binary frame, expected an event as text")),
            Received::Refused(code, reason) => Output::Close(code, reason),
        };
        let _ = self.outbox.send(told).await;
    }

    async fn task(&mut self, event: Utf8Bytes) -> ApiResult<Option<Task>> {
        let app = self.app.clone();
        self.tasks.of(blocking(move || ClientEvent::read(&app, &event)).await??)
    }
}

/// Does the work of a session in a task of its own, and ends the session with a word when the work ends, panics, or is `over`. The
/// connection ends before this does: by its writer, or by its client.
async fn speak(
    work: impl Future<Output = Result<(), Gone>> + Send + 'static,
    over: impl Future<Output = (ApiError, &'static str)>,
    outbox: &Outbox,
) -> Infallible {
    // Dropping it ends the work.
    let mut task = JoinSet::new();
    task.spawn(work.in_current_span());
    let (error, code, reason) = tokio::select! {
        Some(ended) = task.join_next() => match ended {
            Ok(Ok(())) => (None, close_code::NORMAL, "all is read"),
            Ok(Err(Gone)) => std::future::pending().await,
            Err(error) => {
                tracing::error!(%error, "a session's work stopped");
                (Some(ApiError::internal()), close_code::ERROR, "the session failed")
            }
        },
        (error, reason) = over => (Some(error), close_code::AWAY, reason),
    };
    task.shutdown().await;
    if let Some(error) = error {
        let _ = outbox.send(refusal(&error)).await;
    }
    let _ = outbox.send(Output::Close(code, reason)).await;
    std::future::pending().await
}

/// Reads sentence by sentence, until the client has said that it is done.
async fn work(app: Arc<App>, mut waiting: Waiting, outbox: Arc<Outbox>) -> Result<(), Gone> {
    let mut sentences = Sentences::default();
    let mut reader = Reader { app, outbox, count: 0 };
    let mut last: Option<Arc<Settings>> = None;
    loop {
        let (task, _room) = waiting.recv().await.ok_or(Gone)?;
        match task {
            Task::Read(text, settings) => {
                // Text is read as it was to be when it was sent.
                let before = last.replace(settings.clone()).filter(|last| !Arc::ptr_eq(last, &settings));
                if let Some((before, rest)) = before.and_then(|before| Some((before, sentences.finish()?))) {
                    reader.read(&rest, &before).await?;
                }
                for piece in pieces(&text) {
                    for sentence in sentences.push(piece, settings.by_clauses) {
                        reader.read(&sentence, &settings).await?;
                    }
                    // Nothing of a long text may be spoken.
                    tokio::task::yield_now().await;
                }
            }
            Task::Finish => {
                if let Some((rest, settings)) = sentences.finish().zip(last) {
                    reader.read(&rest, &settings).await?;
                }
                reader.event(json!({"type": "session.done", "total_sentences": reader.count})).await?;
                return Ok(());
            }
        }
    }
}

/// Reads sentences aloud.
struct Reader {
    app: Arc<App>,
    outbox: Arc<Outbox>,
    /// Sentences so far.
    count: usize,
}

impl Reader {
    async fn event(&self, event: Value) -> Result<(), Gone> {
        self.outbox.send(Output::Event(event.to_string())).await
    }

    /// Reads a sentence. One that cannot be read is told as an error, and ends no other.
    async fn read(&mut self, text: &str, settings: &Settings) -> Result<(), Gone> {
        self.event(json!({"type": "audio.start", "sentence_index": self.count, "sentence_text": text,
            "format": settings.format.name(), "sample_rate": self.app.omni.sample_rate()}))
            .await?;
        let mut bytes = 0;
        let read = read_aloud(&self.app, text, settings, &self.outbox, &mut bytes).await;
        match &read {
            Ok(()) => {}
            Err(Failure::Gone) => return Err(Gone),
            Err(Failure::Refused(error)) => {
                self.app.metrics.refuse(error.code);
                self.outbox.send(refusal(error)).await?;
            }
        }
        self.event(json!({"type": "audio.done", "sentence_index": self.count, "total_bytes": bytes,
            "error": read.is_err()}))
            .await?;
        self.count += 1;
        Ok(())
    }
}

fn refusal(error: &ApiError) -> Output {
    let event = json!({"type": "error", "message": error.message, "code": error.code, "param": error.param});
    Output::Event(event.to_string())
}

/// Why a sentence is not read to its end.
enum Failure {
    Gone,
    Refused(ApiError),
}

impl From<Gone> for Failure {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// Sends the sound of one sentence and counts its bytes.
async fn read_aloud(
    app: &Arc<App>,
    text: &str,
    settings: &Settings,
    outbox: &Outbox,
    bytes: &mut usize,
) -> Result<(), Failure> {
    let mut answer = begin(app, text, settings).await?;
    let mut send = async |sound: Vec<u8>| {
        *bytes += sound.len();
        outbox.send(Output::Sound(sound)).await
    };
    let format = settings.format;
    if !settings.as_made {
        return Ok(send(whole(answer, format).await?).await?);
    }
    let mut encoder = BackgroundEncoder::new(format.encoder(app.omni.sample_rate(), "response_format")?);
    while let Some(piece) = next(&mut answer, &mut encoder).await {
        let sound = match piece? {
            Piece::Bytes(sound) => sound,
            Piece::Done(_) => encoder.finish().await?,
        };
        if !sound.is_empty() {
            send(sound).await?;
        }
    }
    if *bytes == 0 { Err(nothing_spoken().into()) } else { Ok(()) }
}

/// Waits for a place and begins to read.
async fn begin(app: &Arc<App>, text: &str, settings: &Settings) -> ApiResult<RunningAnswer> {
    let requested = Instant::now();
    let mut options = GenerateOptions::default().read_aloud(text).speech(true);
    if let Some(voice) = &settings.voice {
        options = options.speaker(voice);
    }
    let (app, messages) = (app.clone(), prompt(app, text));
    let permit = app.admission.admit_one().await?;
    blocking(move || RunningAnswer::begin(&app, &messages, &options, requested, permit)).await?
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    async fn broken() -> Result<(), Gone> {
        panic!("reading aloud")
    }

    #[tokio::test]
    async fn a_panic_is_told_and_ends_the_session() {
        let (outbox, mut outputs) = Outbox::new();
        let told = async {
            let (error, close) = (outputs.recv().await.unwrap().0, outputs.recv().await.unwrap().0);
            assert!(matches!(error, Output::Event(event) if event.contains("internal_error")));
            assert!(matches!(close, Output::Close(close_code::ERROR, _)));
        };
        tokio::select! {
            never = speak(broken(), pending(), &outbox) => match never {},
            () = told => {}
        }
    }
}
