//! `POST /v1/audio/speech`: a given text read aloud.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use qwen3_omni::{Audio, Event, GenerateOptions, Message, Usage};
use serde_json::{Value, json};

use crate::answer::RunningAnswer;
use crate::app::{App, blocking};
use crate::body;
use crate::chat::voice;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::outgoing::{self, send, send_data};
use crate::sound::{BackgroundEncoder, Format};

/// Characters of a text.
pub(super) const MOST_INPUT: usize = 4096;

struct SpeechRequest {
    messages: Arc<[Message]>,
    options: GenerateOptions,
    format: Format,
    encoder: BackgroundEncoder,
    as_events: bool,
}

impl SpeechRequest {
    fn read(app: &App, bytes: &[u8]) -> ApiResult<Self> {
        let value = body::parse(bytes)?;
        let fields = Fields::of_request(&value)?;
        app.check_model(fields.string("model")?)?;
        fields.check(&["instructions"], &[], &[])?;
        let input = fields.string("input")?;
        let input = checked(fields.required("input", input)?)?;
        let voice = fields.required("voice", voice(app, &fields)?)?;
        check_speed(&fields)?;
        let format = format(&fields)?;
        let encoder = BackgroundEncoder::new(format.encoder(app.omni.sample_rate(), "response_format")?);
        let as_events = fields.one_of("stream_format", &[("audio", false), ("sse", true)])?.unwrap_or(false);
        let options = GenerateOptions::default().read_aloud(input).speaker(voice).speech(true);
        Ok(Self { messages: prompt(app, input), options, format, encoder, as_events })
    }
}

/// The messages whose answer is the text. The talker sees them, so the text stands in them: that is what it was taught.
pub(super) fn prompt(app: &App, input: &str) -> Arc<[Message]> {
    [Message::user().text(app.config.speech_prompt.replace("{text}", input))].into()
}

/// Checks the field `speed`.
///
/// # Errors
/// 400 for any but 1.
pub(super) fn check_speed(fields: &Fields) -> ApiResult<()> {
    match fields.number("speed", 0.25..=4.0)? {
        Some(speed) if speed != 1.0 => {
            Err(ApiError::unsupported("speed", "only 1.0: the model speaks at its own pace"))
        }
        _ => Ok(()),
    }
}

/// Reads a request without answering it.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(app: &App, body: &[u8]) -> ApiResult<()> {
    SpeechRequest::read(app, body).map(drop)
}

fn checked(input: &str) -> ApiResult<&str> {
    let count = input.chars().count();
    if count > MOST_INPUT {
        return Err(ApiError::invalid("input", format_args!("{count} characters, expected at most {MOST_INPUT}")));
    }
    match input.trim().is_empty() {
        true => Err(ApiError::invalid("input", "empty, expected a text to read")),
        false => Ok(input),
    }
}

/// OpenAI's default is MP3; a build without it takes WAV.
fn format(fields: &Fields) -> ApiResult<Format> {
    let usual = if cfg!(feature = "mp3") { Format::Mp3 } else { Format::Wav };
    Ok(response_format(fields)?.unwrap_or(usual))
}

/// Reads the field `response_format`.
///
/// # Errors
/// 400 that lists the formats.
pub(super) fn response_format(fields: &Fields) -> ApiResult<Option<Format>> {
    let formats = [
        ("mp3", Format::Mp3),
        ("wav", Format::Wav),
        ("flac", Format::Flac),
        ("opus", Format::Opus),
        ("pcm", Format::Pcm),
    ];
    fields.one_of("response_format", &formats)
}

/// Reads a text aloud; the sound is sent as it is made.
pub(crate) async fn speech(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let requested = Instant::now();
    app.check_open()?;
    let (parts, body) = request.into_parts();
    let (asked, room) = body::read(&app, &parts.headers, body, |app, bytes, _| SpeechRequest::read(app, bytes)).await?;
    let permit = app.admit_one().await?;
    let SpeechRequest { messages, options, format, encoder, as_events } = asked;
    let answer = blocking(move || RunningAnswer::begin(&app, &messages, &options, requested, permit)).await??;
    drop(room);
    match as_events {
        true => Ok(as_event_stream(answer, encoder)),
        false => file(answer, encoder, format).await,
    }
}

/// The file as it is made, or when it is complete.
async fn file(mut answer: RunningAnswer, mut encoder: BackgroundEncoder, format: Format) -> ApiResult<Response> {
    let body = match format.needs_length() {
        true => Body::from(whole(answer, format).await?),
        // An answer without any sound is an error, which can be told only before the first byte.
        false => match next(&mut answer, &mut encoder).await {
            Some(Ok(Piece::Bytes(first))) => as_body(answer, encoder, first),
            Some(Err(error)) => return Err(error),
            Some(Ok(Piece::Done(_))) | None => return Err(nothing_spoken()),
        },
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(format.mime()))], body).into_response())
}

pub(super) fn nothing_spoken() -> ApiError {
    ApiError::invalid("input", "nothing of it can be spoken")
}

/// The file of a whole answer.
pub(super) async fn whole(answer: RunningAnswer, format: Format) -> ApiResult<Vec<u8>> {
    let sound = sound(answer).await?;
    blocking(move || format.encode(&sound, "response_format")).await?
}

async fn sound(mut answer: RunningAnswer) -> ApiResult<Audio> {
    let mut whole: Option<Audio> = None;
    while let Some(event) = answer.next().await {
        if let Event::Audio(piece) = event? {
            match &mut whole {
                Some(whole) => whole.samples.extend(piece.samples),
                None => whole = Some(piece),
            }
        }
    }
    whole.ok_or_else(nothing_spoken)
}

/// A piece of a file, or the counts at its end.
pub(super) enum Piece {
    Bytes(Vec<u8>),
    Done(Usage),
}

/// The next piece of the file; `None` after the end.
pub(super) async fn next(answer: &mut RunningAnswer, encoder: &mut BackgroundEncoder) -> Option<ApiResult<Piece>> {
    loop {
        let bytes = match answer.next().await? {
            Ok(Event::Audio(audio)) => encoder.push(audio).await,
            Ok(Event::Done(reply)) => return Some(Ok(Piece::Done(reply.usage))),
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        match bytes {
            // A frame of the format may need more than one piece of sound.
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => return Some(Ok(Piece::Bytes(bytes))),
            Err(error) => return Some(Err(error)),
        }
    }
}

/// A body that is sent as the sound is made.
fn as_body(mut answer: RunningAnswer, mut encoder: BackgroundEncoder, first: Vec<u8>) -> Body {
    outgoing::file(answer.deadline(), |sender| async move {
        send_data(&sender, first).await?;
        while let Some(piece) = next(&mut answer, &mut encoder).await {
            match piece? {
                Piece::Bytes(bytes) => send_data(&sender, bytes).await?,
                Piece::Done(_) => return Ok(send_data(&sender, encoder.finish().await?).await?),
            }
        }
        Err(ApiError::internal())
    })
}

fn as_event_stream(mut answer: RunningAnswer, mut encoder: BackgroundEncoder) -> Response {
    let delta = |bytes: Vec<u8>| json!({"type": "speech.audio.delta", "audio": BASE64_STANDARD.encode(bytes)});
    outgoing::events(answer.deadline(), move |sender| async move {
        while let Some(piece) = next(&mut answer, &mut encoder).await {
            match piece? {
                Piece::Bytes(bytes) => send(&sender, delta(bytes)).await?,
                Piece::Done(counts) => {
                    let rest = encoder.finish().await?;
                    if !rest.is_empty() {
                        send(&sender, delta(rest)).await?;
                    }
                    return Ok(send(&sender, json!({"type": "speech.audio.done", "usage": usage(&counts)})).await?);
                }
            }
        }
        Err(ApiError::internal())
    })
}

/// The object `usage` of a text that was read.
fn usage(counts: &Usage) -> Value {
    let made = counts.text_tokens + counts.frames;
    json!({"input_tokens": counts.prompt_tokens, "output_tokens": made, "total_tokens": counts.prompt_tokens + made})
}
