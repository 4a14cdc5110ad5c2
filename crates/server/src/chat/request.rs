//! A request for an answer, read and checked.

use std::sync::Arc;

use qwen3_omni::{GenerateOptions, Grammar, Message};
use serde_json::Value;

use super::messages::messages;
use super::options::{self, ReadOptions};
use super::speech::{self, SpokenForm};
use super::tools::{ToolChoice, tools};
use crate::app::App;
use crate::body;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::media::RequestMedia;

pub(crate) struct ChatRequest {
    pub(super) messages: Arc<[Message]>,
    pub(super) options: GenerateOptions,
    pub(super) choices: usize,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// The form in which speech is sent; `None` for text alone.
    pub(super) speech: Option<SpokenForm>,
    /// Whether the answer may call more than one function.
    pub(super) several_calls: bool,
}

impl ChatRequest {
    /// Reads a request's body. Blocks while media are fetched.
    ///
    /// # Errors
    /// 400 that names the field; 404 for another model.
    pub(crate) fn read(app: &App, bytes: &[u8], media: &RequestMedia) -> ApiResult<Self> {
        let value = body::parse(bytes)?;
        let fields = Fields::of_request(&value)?;
        app.check_model(fields.string("model")?)?;
        fields.check(&["user", "service_tier", "reasoning_effort"], &["store"], &["metadata", "audio"])?;
        let stream = fields.flag("stream")?.unwrap_or(false);
        let ReadOptions { mut options, choices } = options::read(app, &fields)?;
        let speech = speech::read(app, &fields, stream)?;
        options = options.speech(speech.is_some());
        if let Some(form) = &speech {
            options = options.speaker(&form.voice);
        }
        let tools = tools(&fields)?;
        let choice = ToolChoice::read(&fields, &tools)?;
        let several_calls = fields.flag("parallel_tool_calls")?.unwrap_or(true);
        options = choice.apply(app, options, &tools, several_calls)?;
        // An answer that calls a function has no other form.
        let formatted = with_format(app, &fields, options.clone())?;
        if !choice.forces() {
            options = formatted;
        }
        let list = fields.list("messages")?;
        let messages = messages(app, media, fields.required("messages", list)?)?;
        Ok(Self {
            messages: messages.into(),
            options,
            choices,
            stream,
            include_usage: include_usage(&fields)?,
            speech,
            several_calls,
        })
    }
}

fn include_usage(fields: &Fields) -> ApiResult<bool> {
    let Some(options) = fields.object("stream_options")? else { return Ok(false) };
    Ok(options.flag("include_usage")?.unwrap_or(false))
}

/// Holds the answer to what `response_format` describes.
fn with_format(app: &App, fields: &Fields, options: GenerateOptions) -> ApiResult<GenerateOptions> {
    let Some(format) = fields.object("response_format")? else { return Ok(options) };
    let kind = format.string("type")?;
    let grammar = match format.required("type", kind)? {
        "text" => return Ok(options),
        "json_object" => Grammar::Json,
        "json_schema" => Grammar::JsonSchema(schema(&format)?),
        other => {
            let message = format!("`{}`, expected text, json_object or json_schema", crate::fields::brief(other));
            return Err(ApiError::unsupported(format.name("type"), message));
        }
    };
    let failed = |error| ApiError::invalid("response_format.json_schema.schema", error);
    app.omni.check_grammar(&grammar).map_err(failed)?;
    // What a model thinks is not JSON.
    Ok(options.hook(grammar).enable_thinking(false))
}

fn schema(format: &Fields) -> ApiResult<Value> {
    let described = format.object("json_schema")?;
    let described = format.required("json_schema", described)?;
    described.check(&["name", "description"], &["strict"], &[])?;
    let schema = described.object("schema")?;
    described.required("schema", schema)?;
    Ok(described.get("schema").cloned().unwrap_or_default())
}
