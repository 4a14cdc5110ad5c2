//! Messages of a conversation, from OpenAI's form with the parts that vLLM and SGLang add.

use qwen3_omni::{Message, Role};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, brief};
use crate::media::{RequestMedia, base64};

/// Reads all messages, one for one, so that errors of the model's side name the right one.
pub(super) fn messages(app: &App, media: &RequestMedia, list: &[Value]) -> ApiResult<Vec<Message>> {
    if list.is_empty() {
        return Err(ApiError::invalid("messages", "empty, expected at least one message"));
    }
    list.iter()
        .enumerate()
        .map(|(index, value)| message(app, media, &Fields::at(value, format!("messages[{index}]"))?))
        .collect()
}

fn message(app: &App, media: &RequestMedia, fields: &Fields) -> ApiResult<Message> {
    fields.check(&["name", "tool_call_id"], &[], &[])?;
    let roles = [
        ("system", Role::System),
        ("developer", Role::System),
        ("user", Role::User),
        ("assistant", Role::Assistant),
        ("tool", Role::Tool),
    ];
    let role = fields.one_of("role", &roles)?;
    match fields.required("role", role)? {
        Role::User => user(media, fields),
        Role::Assistant => assistant(app, fields),
        role => {
            let text = text(fields)?;
            Ok(Message::new(role).text(fields.required("content", text)?))
        }
    }
}

/// The content of a message that holds text alone.
fn text(fields: &Fields) -> ApiResult<Option<String>> {
    match fields.get("content") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => {
            let parts = fields.list("content")?.unwrap_or_default();
            let texts = parts.iter().enumerate().map(|(index, part)| {
                let part = Fields::at(part, format!("{}[{index}]", fields.name("content")))?;
                let words = [("text", "text"), ("output_text", "text"), ("refusal", "refusal")];
                let kind = part.one_of("type", &words)?;
                let field = part.required("type", kind)?;
                let text = part.string(field)?;
                part.required(field, text)
            });
            texts.collect::<ApiResult<String>>().map(Some)
        }
    }
}

fn assistant(app: &App, fields: &Fields) -> ApiResult<Message> {
    let said = match fields.object("audio")? {
        Some(audio) => Some(spoken(app, &audio)?),
        None => None,
    };
    let written = text(fields)?;
    let calls = fields.list("tool_calls")?.unwrap_or_default();
    let text = match said.or(written) {
        Some(text) => text,
        None if !calls.is_empty() => String::new(),
        None => return Err(ApiError::missing(fields.name("content"))),
    };
    // Servers and clients use either name.
    let thinking = fields.string("reasoning_content")?.or(fields.string("reasoning")?);
    let message = thinking.into_iter().fold(Message::assistant(text), |message, thinking| message.thinking(thinking));
    calls.iter().enumerate().try_fold(message, |message, (index, call)| {
        let call = Fields::at(call, format!("{}[{index}]", fields.name("tool_calls")))?;
        call.check(&["id", "type"], &[], &[])?;
        let function = call.object("function")?;
        let function = call.required("function", function)?;
        let name = function.string("name")?;
        let arguments = function.arguments()?.unwrap_or_else(|| json!({}));
        Ok(message.tool_call(function.required("name", name)?, arguments))
    })
}

/// The transcript of an earlier spoken reply.
fn spoken(app: &App, audio: &Fields) -> ApiResult<String> {
    let id = audio.string("id")?;
    let id = audio.required("id", id)?;
    app.spoken.transcript(id).ok_or_else(|| {
        let message = format!("there is no spoken reply `{}`; they are kept for an hour", brief(id));
        ApiError::invalid(audio.name("id"), message).code("audio_not_found")
    })
}

fn user(media: &RequestMedia, fields: &Fields) -> ApiResult<Message> {
    match fields.get("content") {
        None => Err(ApiError::missing(fields.name("content"))),
        Some(Value::String(text)) => Ok(Message::user().text(text)),
        Some(_) => {
            let parts = fields.list("content")?.unwrap_or_default();
            if parts.is_empty() {
                return Err(ApiError::invalid(fields.name("content"), "empty, expected at least one part"));
            }
            parts.iter().enumerate().try_fold(Message::user(), |message, (index, part)| {
                add(media, message, &Fields::at(part, format!("{}[{index}]", fields.name("content")))?)
            })
        }
    }
}

fn add(media: &RequestMedia, message: Message, part: &Fields) -> ApiResult<Message> {
    let kind = part.string("type")?;
    match part.required("type", kind)? {
        "text" | "input_text" => {
            let text = part.string("text")?;
            Ok(message.text(part.required("text", text)?))
        }
        "image_url" => {
            let (url, param) = address(part, "image_url")?;
            Ok(message.image(media.picture_at_url(url, &param)?))
        }
        "input_audio" => {
            let audio = part.object("input_audio")?;
            let audio = part.required("input_audio", audio)?;
            audio.check(&["format"], &[], &[])?;
            let data = audio.string("data")?;
            // What the sound is, its contents tell, not `format`.
            let source = base64(audio.required("data", data)?, &audio.name("data"))?;
            Ok(message.audio(source))
        }
        "audio_url" => {
            let (url, param) = address(part, "audio_url")?;
            Ok(message.audio(media.at_url(url, &param)?))
        }
        "video_url" => {
            let (url, param) = address(part, "video_url")?;
            Ok(message.video(media.at_url(url, &param)?))
        }
        other => {
            let message = format!("`{}`, expected text, image_url, input_audio, audio_url or video_url", brief(other));
            Err(ApiError::unsupported(part.name("type"), message))
        }
    }
}

/// An address, alone or as `{"url": …}`, with the name of its field.
fn address<'a>(part: &Fields<'a>, field: &str) -> ApiResult<(&'a str, String)> {
    if let Some(Value::String(url)) = part.get(field) {
        return Ok((url, part.name(field)));
    }
    let object = part.object(field)?;
    let object = part.required(field, object)?;
    object.check(&["detail"], &[], &[])?;
    let url = object.string("url")?;
    Ok((object.required("url", url)?, object.name("url")))
}
