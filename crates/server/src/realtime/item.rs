//! An item of a conversation: read from a client, shown to it, and put into the messages that the model reads.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use qwen3_omni::media::audio::{AudioInput, log_mel};
use qwen3_omni::{Message, Reply, Role};
use serde_json::{Value, json};

use super::ear::CLIENT_RATE;
use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, brief};
use crate::ids;
use crate::media::RequestMedia;

#[derive(Clone)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) status: &'static str,
    pub(super) content: Content,
}

#[derive(Clone)]
pub(super) enum Content {
    /// What a user or the system said, with the parts as the client sees them.
    Said { message: Message, parts: Vec<Value> },
    /// What the model said.
    Answer(SpokenAnswer),
    /// A call of a function.
    Call { call_id: String, name: String, arguments: Value },
    /// What a function gave back.
    CallOutput { call_id: String, output: String },
}

/// An answer of the model, perhaps cut to what was heard of it.
#[derive(Clone, Default)]
pub(super) struct SpokenAnswer {
    pub(super) text: String,
    pub(super) spoken: bool,
    /// Samples that were sent.
    pub(super) samples: usize,
    /// The whole answer, once it has ended.
    pub(super) reply: Option<Box<Reply>>,
}

impl SpokenAnswer {
    /// Its part as it stands in an item.
    pub(super) fn part(&self) -> Value {
        match self.spoken {
            true => json!({"type": "output_audio", "transcript": self.text}),
            false => json!({"type": "output_text", "text": self.text}),
        }
    }
}

pub(super) const IN_PROGRESS: &str = "in_progress";
pub(super) const COMPLETED: &str = "completed";
pub(super) const INCOMPLETE: &str = "incomplete";

impl Item {
    pub(super) fn to_json(&self) -> Value {
        let (id, status) = (&self.id, self.status);
        let message = |role: &str, content: Value| json!({"id": id, "object": "realtime.item", "type": "message", "status": status, "role": role, "content": content});
        match &self.content {
            Content::Said { message: said, parts } => message(said.role().name(), json!(parts)),
            // Nothing of it was said yet.
            Content::Answer(answer) if status == IN_PROGRESS && answer.text.is_empty() => {
                message("assistant", json!([]))
            }
            Content::Answer(answer) => message("assistant", json!([answer.part()])),
            Content::Call { call_id, name, arguments } => {
                // Their pieces follow.
                let arguments = if status == IN_PROGRESS { String::new() } else { arguments.to_string() };
                json!({"id": id, "object": "realtime.item", "type": "function_call",
                "status": status, "call_id": call_id, "name": name, "arguments": arguments})
            }
            Content::CallOutput { call_id, output } => json!({"id": id, "object": "realtime.item",
                "type": "function_call_output", "status": status, "call_id": call_id, "output": output}),
        }
    }

    /// A turn that was spoken.
    pub(super) fn spoken(id: String, recording: AudioInput) -> Self {
        let message = Message::user().audio(recording);
        let parts = vec![json!({"type": "input_audio", "transcript": null})];
        Self { id, status: COMPLETED, content: Content::Said { message, parts } }
    }

    /// An item that a client writes itself.
    ///
    /// # Errors
    /// 400 that names the field.
    pub(super) fn read(media: &RequestMedia, fields: &Fields) -> ApiResult<Self> {
        let id = fields.string("id")?.map_or_else(|| ids::new("item_"), str::to_owned);
        // The beginning of a conversation has this name.
        if id.is_empty() || id == "root" {
            return Err(ApiError::invalid(fields.name("id"), format_args!("`{id}` cannot name an item")));
        }
        let kind = fields.string("type")?;
        fields.check(&["object", "status"], &[], &[])?;
        let text = |field: &str| -> ApiResult<String> {
            let text = fields.string(field)?;
            Ok(fields.required(field, text)?.to_owned())
        };
        let content = match fields.required("type", kind)? {
            "message" => read_message(media, fields)?,
            "function_call_output" => Content::CallOutput { call_id: text("call_id")?, output: text("output")? },
            "function_call" => {
                let arguments = fields.arguments()?;
                let arguments = fields.required("arguments", arguments)?;
                Content::Call { call_id: text("call_id")?, name: text("name")?, arguments }
            }
            other => {
                let message = format!("`{}`, expected message, function_call or function_call_output", brief(other));
                return Err(ApiError::unsupported(fields.name("type"), message));
            }
        };
        Ok(Self { id, status: COMPLETED, content })
    }

    /// Adds what the model reads of the item.
    pub(super) fn add_to(&self, messages: &mut Vec<Message>) {
        match &self.content {
            Content::Said { message, .. } if message.role() == Role::User => say(messages, message),
            Content::Said { message, .. } => messages.push(message.clone()),
            Content::Answer(answer) if answer.text.is_empty() => {}
            Content::Answer(answer) => messages.push(Message::assistant(&answer.text)),
            Content::Call { name, arguments, .. } => {
                let before = messages.pop_if(|last| last.role() == Role::Assistant);
                let message = before.unwrap_or_else(|| Message::assistant(""));
                messages.push(message.tool_call(name, arguments.clone()));
            }
            Content::CallOutput { output, .. } => messages.push(Message::tool(output)),
        }
    }
}

/// Adds the parts of a message as a user's. Turns of a user that follow each other become one: models were taught turns that alternate.
pub(super) fn say(messages: &mut Vec<Message>, said: &Message) {
    let last = messages.pop_if(|last| last.role() == Role::User).unwrap_or_else(Message::user);
    messages.push(said.parts().iter().cloned().fold(last, Message::part));
}

/// Sound as the model reads it: made now, so that what comes later does not change it.
///
/// # Errors
/// 400 for sound that is too short to be heard.
pub(super) fn heard(sound: Vec<f32>, rate: u32, param: &str) -> ApiResult<AudioInput> {
    let frames = log_mel(&[AudioInput::samples(sound, rate, 1)]);
    let frames = frames.map_err(|error| ApiError::invalid(param, error).code("invalid_audio"))?;
    let only = frames.into_iter().next().ok_or_else(ApiError::internal)?;
    Ok(AudioInput::Frames(Arc::new(only)))
}

fn read_message(media: &RequestMedia, fields: &Fields) -> ApiResult<Content> {
    let roles = [("user", Role::User), ("assistant", Role::Assistant), ("system", Role::System)];
    let role = fields.one_of("role", &roles)?;
    let role = fields.required("role", role)?;
    let content = fields.list("content")?;
    let content = fields.required("content", content)?;
    let (mut message, mut parts) = (Message::new(role), Vec::new());
    for (index, part) in content.iter().enumerate() {
        let part = Fields::at(part, format!("{}[{index}]", fields.name("content")))?;
        let (with, shown) = read_part(media, role, message, &part)?;
        message = with;
        parts.push(shown);
    }
    if role == Role::Assistant {
        let text = parts.iter().filter_map(|part| part["text"].as_str()).collect();
        return Ok(Content::Answer(SpokenAnswer { text, ..SpokenAnswer::default() }));
    }
    if parts.is_empty() {
        return Err(ApiError::invalid(fields.name("content"), "empty, expected at least one part"));
    }
    Ok(Content::Said { message, parts })
}

fn read_part(media: &RequestMedia, role: Role, message: Message, part: &Fields) -> ApiResult<(Message, Value)> {
    let kind = part.string("type")?;
    let field = |name: &str| {
        let value = part.string(name)?;
        part.required(name, value)
    };
    match (role, part.required("type", kind)?) {
        (Role::Assistant, kind @ ("output_text" | "text" | "output_audio")) => {
            let text = field(if kind == "output_audio" { "transcript" } else { "text" })?;
            Ok((message, json!({"type": "output_text", "text": text})))
        }
        (Role::User | Role::System, "input_text" | "text") => {
            let text = field("text")?;
            Ok((message.text(text), json!({"type": "input_text", "text": text})))
        }
        (Role::User, "input_image") => {
            let (url, param) = (field("image_url")?, part.name("image_url"));
            part.check(&["detail"], &[], &[])?;
            let picture = media.picture_at_url(url, &param)?;
            // Shown without its data, which would be held twice.
            Ok((message.image(picture), json!({"type": "input_image"})))
        }
        (Role::User, "input_audio") => {
            let (data, param) = (field("audio")?, part.name("audio"));
            let sound = heard(samples(data, &param)?, CLIENT_RATE, &param)?;
            Ok((message.audio(sound), json!({"type": "input_audio", "transcript": null})))
        }
        (_, other) => {
            let message = format!("`{}` cannot stand in a message of this role", brief(other));
            Err(ApiError::unsupported(part.name("type"), message))
        }
    }
}

/// Decodes samples of 16 bits in base64; half a sample at the end is left out.
pub(super) fn samples(data: &str, param: &str) -> ApiResult<Vec<f32>> {
    let bytes = decode(data, param)?;
    Ok(to_samples(&bytes))
}

pub(super) fn decode(data: &str, param: &str) -> ApiResult<Vec<u8>> {
    BASE64_STANDARD.decode(data).map_err(|error| ApiError::invalid(param, error).code("invalid_base64"))
}

pub(super) fn to_samples(bytes: &[u8]) -> Vec<f32> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| f32::from(i16::from_le_bytes(*pair)) / 32768.0).collect()
}
