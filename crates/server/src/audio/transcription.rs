//! What is said in a recording, as the thinker writes it down.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use qwen3_omni::media::audio::{AudioInput, SAMPLE_RATE};
use qwen3_omni::{Event, GenerateOptions, Message, Reply, SamplingOptions};
use serde_json::{Value, json};

use crate::answer::RunningAnswer;
use crate::app::{App, blocking};
use crate::body;
use crate::body_room::Room;
use crate::error::{ApiError, ApiResult};
use crate::fields::brief;
use crate::outgoing::{self, DONE, send, send_data};

#[derive(Debug, Clone, Copy, PartialEq, Default)]
enum Format {
    #[default]
    Json,
    Text,
    Verbose,
}

/// The fields of the form.
#[derive(Default)]
struct Form {
    file: Option<Vec<u8>>,
    model: Option<String>,
    prompt: Option<String>,
    language: Option<String>,
    format: Format,
    temperature: f32,
    stream: bool,
}

impl Form {
    async fn read(mut parts: Multipart) -> ApiResult<Self> {
        let mut form = Self::default();
        while let Some(field) = parts.next_field().await.map_err(|error| broken(&error))? {
            form.take(field).await?;
        }
        Ok(form)
    }

    async fn take(&mut self, field: Field<'_>) -> ApiResult<()> {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            self.file = Some(field.bytes().await.map_err(|error| broken(&error))?.into());
            return Ok(());
        }
        let value = field.text().await.map_err(|error| broken(&error))?;
        match name.as_str() {
            "model" => self.model = Some(value),
            "prompt" => self.prompt = Some(value).filter(|prompt| !prompt.trim().is_empty()),
            "language" => self.language = Some(value).filter(|language| !language.is_empty()),
            "response_format" => self.format = format(&value)?,
            "temperature" => self.temperature = temperature(&value)?,
            "stream" => self.stream = flag(&value)?,
            "timestamp_granularities[]" | "timestamp_granularities" if value != "segment" => {
                return Err(ApiError::unsupported("timestamp_granularities[]", "the model tells no times of words"));
            }
            _ => {}
        }
        Ok(())
    }
}

fn format(value: &str) -> ApiResult<Format> {
    match value {
        "json" => Ok(Format::Json),
        "text" => Ok(Format::Text),
        "verbose_json" => Ok(Format::Verbose),
        other => {
            let message = format!("`{}`, expected json, text or verbose_json", brief(other));
            Err(ApiError::unsupported("response_format", message))
        }
    }
}

fn temperature(value: &str) -> ApiResult<f32> {
    let number = value.parse().ok().filter(|number| (0.0..=2.0).contains(number));
    number.ok_or_else(|| ApiError::invalid("temperature", format_args!("`{}`, expected 0 to 2", brief(value))))
}

fn flag(value: &str) -> ApiResult<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(ApiError::invalid("stream", format_args!("`{}`, expected true or false", brief(value)))),
    }
}

fn broken(error: &MultipartError) -> ApiError {
    let unreadable =
        || ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", format!("the form cannot be read: {error}"));
    body::refusal(error).unwrap_or_else(unreadable)
}

/// Reads the form of a request within the server's bounds of size and time.
async fn read(app: &App, request: Request) -> ApiResult<(Form, Room)> {
    let form = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !form.to_ascii_lowercase().starts_with("multipart/form-data") {
        let message = "expected a form (multipart/form-data) with the recording in its field `file`";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", message));
    }
    let (parts, body) = request.into_parts();
    let (body, room) = body::bounded(app, &parts.headers, body)?;
    let parts = Multipart::from_request(Request::from_parts(parts, body), &()).await;
    let parts = parts.map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", error.body_text()))?;
    let time = app.config.body_time;
    let form =
        async { tokio::time::timeout(time, Form::read(parts)).await.unwrap_or_else(|_| Err(body::too_slow(time))) };
    let form = body::unless_cut(app, form).await?;
    Ok((form, room))
}

/// The question about a recording.
pub(crate) fn question(recording: AudioInput, prompt: &str) -> Message {
    Message::user().audio(recording).text(prompt)
}

/// Writes down what is said.
pub(crate) async fn transcriptions(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let requested = Instant::now();
    app.check_open()?;
    let (mut form, room) = read(&app, request).await?;
    app.check_model(form.model.as_deref())?;
    let file = form.file.take().ok_or_else(|| ApiError::missing("file"))?;
    let recording = AudioInput::from(file);
    let prompt = form.prompt.as_deref().unwrap_or(&app.config.transcription_prompt);
    let messages: Arc<[Message]> = [question(recording.clone(), prompt)].into();
    let options = options(&app, form.temperature);
    let permit = app.admit_one().await?;
    let answer = blocking(move || RunningAnswer::begin(&app, &messages, &options, requested, permit)).await?;
    let answer = answer.map_err(|error| error.param("file"))?;
    drop(room);
    match form.stream {
        true => Ok(stream(answer)),
        false => whole(answer, form, recording).await,
    }
}

fn options(app: &App, temperature: f32) -> GenerateOptions {
    let sampling = match temperature > 0.0 {
        true => SamplingOptions::default().sampled().temperature(temperature.max(1e-3)),
        false => SamplingOptions::default(),
    };
    GenerateOptions::default().text_only().thinker(sampling).max_new_tokens(app.config.max_output_tokens)
}

async fn whole(mut answer: RunningAnswer, form: Form, recording: AudioInput) -> ApiResult<Response> {
    let reply = loop {
        match answer.next().await {
            Some(Ok(Event::Done(reply))) => break *reply,
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => return Err(ApiError::internal()),
        }
    };
    drop(answer);
    match form.format {
        Format::Text => Ok(format!("{}\n", reply.text).into_response()),
        Format::Json => Ok(Json(json!({"text": reply.text, "usage": usage(&reply)})).into_response()),
        Format::Verbose => {
            let seconds = blocking(move || duration(&recording)).await??;
            Ok(Json(verbose(&reply, form.language.as_deref(), seconds)).into_response())
        }
    }
}

/// Duration of a recording in seconds. It was decoded for the prompt, so it is not too long to be decoded again.
fn duration(recording: &AudioInput) -> ApiResult<f64> {
    let mut samples = 0;
    let counted = recording.feed(&mut |piece| {
        samples += piece.len();
        Ok(())
    });
    counted.map_err(|error| ApiError::invalid("file", error).code("invalid_audio"))?;
    Ok(samples as f64 / f64::from(SAMPLE_RATE))
}

fn verbose(reply: &Reply, language: Option<&str>, seconds: f64) -> Value {
    let segment = json!({"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": reply.text, "tokens": reply.token_ids,
        "temperature": 0.0, "avg_logprob": 0.0, "compression_ratio": 1.0, "no_speech_prob": 0.0});
    json!({
        "task": "transcribe",
        "language": language.unwrap_or("unknown"),
        "duration": seconds,
        "text": reply.text,
        "segments": [segment],
        "usage": {"type": "duration", "seconds": seconds.ceil()},
    })
}

/// The object `usage` of a transcript.
pub(crate) fn usage(reply: &Reply) -> Value {
    let (usage, prompt) = (&reply.usage, reply.usage.prompt);
    json!({
        "type": "tokens",
        "input_tokens": usage.prompt_tokens,
        "input_token_details": {"text_tokens": prompt.text, "audio_tokens": prompt.audio},
        "output_tokens": usage.text_tokens,
        "total_tokens": usage.prompt_tokens + usage.text_tokens,
    })
}

fn stream(mut answer: RunningAnswer) -> Response {
    outgoing::events(answer.deadline(), |sender| async move {
        while let Some(event) = answer.next().await {
            let event = match event? {
                Event::Text(piece) => json!({"type": "transcript.text.delta", "delta": piece}),
                Event::Done(reply) => {
                    json!({"type": "transcript.text.done", "text": reply.text, "usage": usage(&reply)})
                }
                _ => continue,
            };
            send(&sender, event).await?;
        }
        Ok(send_data(&sender, DONE.into()).await?)
    })
}
