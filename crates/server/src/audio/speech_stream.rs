//! `GET /v1/audio/speech/stream`: a text read aloud while it is being written, on a WebSocket in the events of vLLM-Omni.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::extract::ws::{Utf8Bytes, WebSocket, close_code};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use qwen3_omni::GenerateOptions;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::{Instrument, Span};

use super::sentences::{Sentences, pieces};
use super::speech::{Piece, next, nothing_spoken, prompt, whole};
use super::speech_events::{ClientEvent, Settings, Task, Tasks};
use crate::answer::RunningAnswer;
use crate::app::{App, blocking};
use crate::chat::Gone;
use crate::error::{ApiError, ApiResult};
use crate::outbox::{Outbox, Output};
use crate::socket::{self, Frames, Pulse, Received, Upgrade, accept};
use crate::sound::BackgroundEncoder;

/// Frames that wait to be read aloud; then the client waits.
const FRAMES: usize = 16;
/// Bytes of a frame; a larger one ends the session.
const MOST_FRAME: usize = 1 << 20;

/// Opens a session.
pub(crate) async fn connect(State(app): State<Arc<App>>, upgrade: Upgrade) -> ApiResult<Response> {
    let (upgrade, place) = accept(&app, upgrade)?;
    // What is logged of its answers names the request that opened it.
    let span = Span::current();
    Ok(upgrade.on_upgrade(move |socket| run(app, socket, place).instrument(span)).into_response())
}

/// Holds a session until its text is read, the client goes, its time is over, or the server shuts down.
async fn run(app: Arc<App>, socket: WebSocket, _place: OwnedSemaphorePermit) {
    app.metrics.sessions.inc();
    let (asked, waiting) = channel(FRAMES);
    let (outbox, outputs) = Outbox::new();
    let (sink, stream) = socket.split();
    let pulse = Pulse::default();
    let frames = Frames::new(stream, &pulse, MOST_FRAME, "the frame is larger than 1 MiB");
    tokio::select! {
        () = socket::hold(listen(&app, frames, &asked), socket::write(sink, outputs, &pulse)) => {}
        never = speak(&app, waiting, &outbox) => match never {},
    }
    app.metrics.sessions.dec();
}

/// What the client's frames ask for.
enum Asked {
    Do(Task),
    Refuse(ApiError),
    /// Ends the session when all before it is done.
    End(u16, &'static str),
}

/// Passes on what the client's frames ask for, until the client goes. What comes after the end of the session is dropped.
async fn listen(app: &Arc<App>, mut frames: Frames<'_>, asked: &Sender<Asked>) {
    let mut tasks = Tasks::default();
    while let Some(received) = frames.next().await {
        let next = match received {
            Received::Text(text) => match task(app, &mut tasks, text).await {
                Ok(Some(task)) => Asked::Do(task),
                Ok(None) => continue,
                Err(error) => Asked::Refuse(error),
            },
            Received::Binary => Asked::Refuse(ApiError::invalid("type", "a binary frame, expected an event as text")),
            Received::Refused(code, reason) => Asked::End(code, reason),
        };
        let _ = asked.send(next).await;
    }
}

async fn task(app: &Arc<App>, tasks: &mut Tasks, event: Utf8Bytes) -> ApiResult<Option<Task>> {
    let app = app.clone();
    tasks.of(blocking(move || ClientEvent::read(&app, &event)).await??)
}

/// Reads sentence by sentence, and ends the session with a word. The connection ends before this does: by its writer, or by its client.
async fn speak(app: &Arc<App>, asked: Receiver<Asked>, outbox: &Outbox) -> Infallible {
    let end = tokio::select! {
        end = work(app, asked, outbox) => end,
        (error, reason) = socket::over(app) => {
            let _ = outbox.send(Output::Event(refusal(&error).to_string())).await;
            Ok((close_code::AWAY, reason))
        }
    };
    if let Ok((code, reason)) = end {
        let _ = outbox.send(Output::Close(code, reason)).await;
    }
    std::future::pending().await
}

/// Works on all tasks; returns how the session ends.
async fn work(app: &Arc<App>, mut asked: Receiver<Asked>, outbox: &Outbox) -> Result<(u16, &'static str), Gone> {
    let mut sentences = Sentences::default();
    let mut reader = Reader { app, outbox, count: 0 };
    loop {
        match asked.recv().await.ok_or(Gone)? {
            Asked::Refuse(error) => reader.event(refusal(&error)).await?,
            Asked::End(code, reason) => return Ok((code, reason)),
            Asked::Do(Task::Read(text, settings)) => {
                for piece in pieces(&text) {
                    for sentence in sentences.push(piece, settings.by_clauses) {
                        reader.read(&sentence, &settings).await?;
                    }
                    // Nothing of a long text may be spoken.
                    tokio::task::yield_now().await;
                }
            }
            Asked::Do(Task::Finish(settings)) => {
                if let Some((rest, settings)) = sentences.finish().zip(settings) {
                    reader.read(&rest, &settings).await?;
                }
                reader.event(json!({"type": "session.done", "total_sentences": reader.count})).await?;
                return Ok((close_code::NORMAL, "all is read"));
            }
        }
    }
}

/// Reads sentences aloud.
struct Reader<'a> {
    app: &'a Arc<App>,
    outbox: &'a Outbox,
    /// Sentences so far.
    count: usize,
}

impl Reader<'_> {
    async fn event(&self, event: Value) -> Result<(), Gone> {
        self.outbox.send(Output::Event(event.to_string())).await
    }

    /// Reads a sentence. One that cannot be read is told as an error, and ends no other.
    async fn read(&mut self, text: &str, settings: &Settings) -> Result<(), Gone> {
        self.event(json!({"type": "audio.start", "sentence_index": self.count, "sentence_text": text,
            "format": settings.format.name(), "sample_rate": self.app.omni.sample_rate()}))
            .await?;
        let mut bytes = 0;
        let read = read_aloud(self.app, text, settings, self.outbox, &mut bytes).await;
        match &read {
            Ok(()) => {}
            Err(Failure::Gone) => return Err(Gone),
            Err(Failure::Refused(error)) => {
                self.app.metrics.refuse(error.code);
                self.event(refusal(error)).await?;
            }
        }
        self.event(json!({"type": "audio.done", "sentence_index": self.count, "total_bytes": bytes,
            "error": read.is_err()}))
            .await?;
        self.count += 1;
        Ok(())
    }
}

fn refusal(error: &ApiError) -> Value {
    json!({"type": "error", "message": error.message, "code": error.code, "param": error.param})
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
