//! `GET /v1/audio/speech/stream`: a text read aloud while it is being written, on a WebSocket in the events of vLLM-Omni.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::extract::ws::{WebSocket, close_code};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use qwen3_omni::GenerateOptions;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::{Instrument, Span};

use super::sentences::Sentences;
use super::speech::{Piece, check_speed, next, nothing_spoken, prompt, response_format, whole};
use crate::answer::RunningAnswer;
use crate::app::{App, blocking};
use crate::body;
use crate::chat::{Gone, voice};
use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, brief};
use crate::outbox::{Outbox, Output};
use crate::socket::{self, Frames, Pulse, Received, Upgrade, accept};
use crate::sound::{BackgroundEncoder, Format};

/// Sentences that wait to be read; then the client waits.
const SENTENCES: usize = 16;
/// Bytes of a frame; a larger one ends the session.
const MOST_FRAME: usize = 1 << 20;
/// Fields that ask for a voice made from a recording.
const CLONING: [&str; 3] = ["ref_audio", "ref_text", "speaker_embedding"];

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
    let (tasks, waiting) = channel(SENTENCES);
    let (outbox, outputs) = Outbox::new();
    let (sink, stream) = socket.split();
    let pulse = Pulse::default();
    let frames = Frames::new(stream, &pulse, MOST_FRAME, "the frame is larger than 1 MiB");
    let input = Input { app: app.clone(), settings: None, sentences: Sentences::default() };
    tokio::select! {
        () = socket::hold(listen(input, frames, &tasks), socket::write(sink, outputs, &pulse)) => {}
        never = speak(&app, waiting, &outbox) => match never {},
    }
    app.metrics.sessions.dec();
}

/// How the sentences that follow are read.
#[derive(Debug, Clone)]
struct Settings {
    voice: Option<String>,
    format: Format,
    /// Sends sound as it is made, else each sentence as one file.
    as_made: bool,
    by_clauses: bool,
}

impl Settings {
    fn read(app: &App, fields: &Fields) -> ApiResult<Self> {
        app.check_model(fields.string("model")?)?;
        fields.check(&["instructions", "language"], &[], &[])?;
        check_speed(fields)?;
        fields.one_of("task_type", &[("CustomVoice", ())])?;
        if let Some(field) = CLONING.iter().find(|field| fields.get(field).is_some()) {
            return Err(ApiError::unsupported(*field, "only the voices of the model are spoken with"));
        }
        let as_made = fields.flag("stream_audio")?.unwrap_or(false);
        let usual = if as_made { Format::Pcm } else { Format::Wav };
        let format = response_format(fields)?.unwrap_or(usual);
        // A form that this build does not write is refused before there is text.
        drop(format.encoder(app.omni.sample_rate(), "response_format")?);
        if as_made && format.needs_length() {
            return Err(ApiError::unsupported("response_format", "the file says how long it is, expected pcm"));
        }
        let by_clauses = fields.one_of("split_granularity", &[("sentence", false), ("clause", true)])?.unwrap_or(false);
        Ok(Self { voice: voice(app, fields)?, format, as_made, by_clauses })
    }
}

/// What the client's frames ask for.
enum Task {
    Read(String, Settings),
    Refuse(ApiError),
    /// Ends the session when all before it is done.
    End(u16, &'static str),
}

/// Reads events of a session without reading aloud; returns the number of tasks that they make.
#[cfg(any(test, fuzzing))]
pub(crate) fn check<'a>(app: &Arc<App>, events: impl Iterator<Item = &'a str>) -> usize {
    let mut input = Input { app: app.clone(), settings: None, sentences: Sentences::default() };
    events.map(|event| input.tasks(event).len()).sum()
}

/// Makes tasks of the client's events.
struct Input {
    app: Arc<App>,
    settings: Option<Settings>,
    sentences: Sentences,
}

impl Input {
    fn tasks(&mut self, event: &str) -> Vec<Task> {
        self.read(event).unwrap_or_else(|error| vec![Task::Refuse(error)])
    }

    fn read(&mut self, event: &str) -> ApiResult<Vec<Task>> {
        let event = body::parse(event.as_bytes())?;
        let fields = Fields::of_request(&event)?;
        let kind = fields.string("type")?;
        match fields.required("type", kind)? {
            "session.config" => {
                self.settings = Some(Settings::read(&self.app, &fields)?);
                Ok(Vec::new())
            }
            "input.text" => {
                let settings = self.settings.as_ref().ok_or_else(|| {
                    ApiError::invalid("type", "text before `session.config`, which says how it is read")
                })?;
                let text = fields.string("text")?;
                let sentences = self.sentences.push(fields.required("text", text)?, settings.by_clauses);
                Ok(sentences.into_iter().map(|sentence| Task::Read(sentence, settings.clone())).collect())
            }
            "input.done" => {
                let rest = self.sentences.finish().zip(self.settings.clone());
                let rest = rest.map(|(rest, settings)| Task::Read(rest, settings));
                Ok(rest.into_iter().chain([Task::End(close_code::NORMAL, "all is read")]).collect())
            }
            other => {
                let message = format!("`{}`, expected session.config, input.text or input.done", brief(other));
                Err(ApiError::invalid("type", message))
            }
        }
    }
}

/// Makes tasks of the client's frames until the client goes. What comes after the end of the session is dropped.
async fn listen(mut input: Input, mut frames: Frames<'_>, tasks: &Sender<Task>) {
    while let Some(received) = frames.next().await {
        let made = match received {
            Received::Text(text) => input.tasks(&text),
            Received::Binary => {
                vec![Task::Refuse(ApiError::invalid("type", "a binary frame, expected an event as text"))]
            }
            Received::Refused(code, reason) => vec![Task::End(code, reason)],
        };
        for task in made {
            let _ = tasks.send(task).await;
        }
    }
}

/// Reads sentence by sentence, and ends the session with a word. The connection ends before this does: by its writer, or by its client.
async fn speak(app: &Arc<App>, tasks: Receiver<Task>, outbox: &Outbox) -> Infallible {
    let end = tokio::select! {
        end = work(app, tasks, outbox) => end,
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
async fn work(app: &Arc<App>, mut tasks: Receiver<Task>, outbox: &Outbox) -> Result<(u16, &'static str), Gone> {
    let event = |event: Value| outbox.send(Output::Event(event.to_string()));
    let mut count = 0;
    loop {
        match tasks.recv().await.ok_or(Gone)? {
            Task::Refuse(error) => event(refusal(&error)).await?,
            Task::End(code, reason) => {
                if code == close_code::NORMAL {
                    event(json!({"type": "session.done", "total_sentences": count})).await?;
                }
                return Ok((code, reason));
            }
            Task::Read(text, settings) => {
                event(json!({"type": "audio.start", "sentence_index": count, "sentence_text": text,
                    "format": settings.format.name(), "sample_rate": app.omni.sample_rate()}))
                .await?;
                let mut bytes = 0;
                let read = read_aloud(app, &text, &settings, outbox, &mut bytes).await;
                match &read {
                    Ok(()) => {}
                    Err(Failure::Gone) => return Err(Gone),
                    Err(Failure::Refused(error)) => {
                        app.metrics.refuse(error.code);
                        event(refusal(error)).await?;
                    }
                }
                event(json!({"type": "audio.done", "sentence_index": count, "total_bytes": bytes,
                    "error": read.is_err()}))
                .await?;
                count += 1;
            }
        }
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
