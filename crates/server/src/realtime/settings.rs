//! The session object: what a client can set, and its echo.

use qwen3_omni::GenerateOptions;
use serde_json::{Map, Value, json};

use super::ear::CLIENT_RATE;
use super::turn_detection::TurnDetection;
use crate::app::App;
use crate::chat::{ToolChoice, tools, voice};
use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, brief};
use crate::ids;

/// How what is said is written down for the client.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Transcription {
    /// Any name is taken; the session's own model does it.
    model: String,
    language: Option<String>,
    pub(super) prompt: Option<String>,
}

impl Default for Transcription {
    /// OpenAI's default name.
    fn default() -> Self {
        Self { model: "gpt-4o-mini-transcribe".into(), language: None, prompt: None }
    }
}

/// Settings of answers, of the session or of one of them.
#[derive(Debug, Clone)]
pub(super) struct AnswerSettings {
    pub(super) spoken: bool,
    pub(super) instructions: String,
    /// As the client sent them.
    tools_sent: Value,
    tools: Vec<Value>,
    tool_choice_sent: Value,
    tool_choice: ToolChoice,
    /// `None` for what the server allows.
    max_output_tokens: Option<usize>,
    pub(super) voice: String,
    several_calls: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    id: String,
    model: String,
    expires_at: u64,
    pub(super) answer: AnswerSettings,
    pub(super) turn_detection: Option<TurnDetection>,
    pub(super) transcription: Option<Transcription>,
    /// Fields without effect, which are echoed.
    echoed: Map<String, Value>,
    noise_reduction: Value,
}

/// Fields that are taken and have no effect.
const ECHOED: [&str; 4] = ["tracing", "include", "prompt", "truncation"];

impl Settings {
    pub(super) fn new(app: &App) -> Self {
        let speakers = app.omni.speakers();
        let voice = speakers.iter().find(|name| **name == "ethan").or(speakers.first());
        Self {
            id: ids::new("sess_"),
            model: app.config.model_name.clone(),
            expires_at: ids::now() + app.config.session_time.as_secs(),
            answer: AnswerSettings {
                spoken: app.omni.speaks(),
                instructions: String::new(),
                tools_sent: json!([]),
                tools: Vec::new(),
                tool_choice_sent: json!("auto"),
                tool_choice: ToolChoice::Auto,
                max_output_tokens: None,
                voice: voice.map(|voice| (*voice).to_owned()).unwrap_or_default(),
                several_calls: true,
            },
            turn_detection: Some(TurnDetection::default()),
            transcription: None,
            echoed: Map::from_iter([("truncation".to_owned(), json!("auto")), ("tracing".to_owned(), Value::Null)]),
            noise_reduction: Value::Null,
        }
    }

    /// The settings with what a client sent; `null` switches off.
    ///
    /// # Errors
    /// What is wrong, by its name; nothing is changed then.
    pub(super) fn merge(&self, app: &App, fields: &Fields) -> ApiResult<Self> {
        let mut merged = self.clone();
        if let Some(kind) = fields.string("type")?
            && kind != "realtime"
        {
            let message = format!("`{}`, expected realtime", brief(kind));
            return Err(ApiError::unsupported(fields.name("type"), message));
        }
        app.check_model(fields.string("model")?).map_err(|error| error.param(fields.name("model")))?;
        check_echoed(fields)?;
        merged.answer = merged.answer.merge(app, fields)?;
        for field in ECHOED {
            if let Some(value) = fields.get(field) {
                merged.echoed.insert(field.to_owned(), value.clone());
            } else if fields.is_null(field) {
                merged.echoed.insert(field.to_owned(), Value::Null);
            }
        }
        if let Some(audio) = fields.object("audio")?
            && let Some(input) = audio.object("input")?
        {
            merged.merge_input(&input)?;
        }
        Ok(merged)
    }

    fn merge_input(&mut self, input: &Fields) -> ApiResult<()> {
        check_format(input)?;
        if let Some(turns) = input.object("turn_detection")? {
            self.turn_detection = Some(TurnDetection::merge(self.turn_detection.as_ref(), &turns)?);
        } else if input.is_null("turn_detection") {
            self.turn_detection = None;
        }
        if let Some(transcription) = input.object("transcription")? {
            let own = |field: &str| ApiResult::Ok(transcription.string(field)?.map(str::to_owned));
            let present = self.transcription.take().unwrap_or_default();
            self.transcription = Some(Transcription {
                model: own("model")?.unwrap_or(present.model),
                language: own("language")?.or(present.language),
                prompt: own("prompt")?.or(present.prompt).filter(|prompt| !prompt.is_empty()),
            });
        } else if input.is_null("transcription") {
            self.transcription = None;
        }
        if let Some(reduction) = input.object("noise_reduction")? {
            reduction.one_of("type", &[("near_field", ()), ("far_field", ())])?;
        }
        if let Some(value) = input.get("noise_reduction") {
            self.noise_reduction = value.clone();
        } else if input.is_null("noise_reduction") {
            self.noise_reduction = Value::Null;
        }
        Ok(())
    }

    /// The whole session object.
    pub(super) fn to_json(&self) -> Value {
        let transcription = self.transcription.as_ref().map(|transcription| {
            json!({"model": transcription.model, "language": transcription.language, "prompt": transcription.prompt})
        });
        let mut session = json!({
            "type": "realtime",
            "object": "realtime.session",
            "id": self.id,
            "model": self.model,
            "expires_at": self.expires_at,
            "output_modalities": self.answer.modalities(),
            "instructions": self.answer.instructions,
            "tools": self.answer.tools_sent,
            "tool_choice": self.answer.tool_choice_sent,
            "max_output_tokens": self.answer.limit_json(),
            "audio": {
                "input": {
                    "format": pcm(),
                    "transcription": transcription,
                    "noise_reduction": self.noise_reduction,
                    "turn_detection": self.turn_detection.as_ref().map(TurnDetection::to_json),
                },
                "output": self.answer.output_json(),
            },
        });
        for (field, value) in &self.echoed {
            session[field] = value.clone();
        }
        session
    }
}

/// Checks the forms of fields without effect.
fn check_echoed(fields: &Fields) -> ApiResult<()> {
    if let Some(prompt) = fields.object("prompt")? {
        prompt.check(&["id", "version"], &[], &["variables"])?;
    }
    if let Some(tracing) = fields.word_or_object("tracing", &["auto"])? {
        tracing.check(&["workflow_name", "group_id"], &[], &["metadata"])?;
    }
    if let Some(truncation) = fields.word_or_object("truncation", &["auto", "disabled"])? {
        let kind = truncation.one_of("type", &[("retention_ratio", ())])?;
        truncation.required("type", kind)?;
        truncation.number("retention_ratio", 0.0..=1.0)?;
        truncation.object("token_limits")?;
    }
    for (index, included) in fields.list("include")?.unwrap_or_default().iter().enumerate() {
        if !included.is_string() {
            return Err(ApiError::invalid(format!("{}[{index}]", fields.name("include")), "expected a string"));
        }
    }
    Ok(())
}

fn pcm() -> Value {
    json!({"type": "audio/pcm", "rate": CLIENT_RATE})
}

/// Refuses other forms of sound than the one there is.
fn check_format(fields: &Fields) -> ApiResult<()> {
    let Some(format) = fields.object("format")? else { return Ok(()) };
    let kind = format.string("type")?.unwrap_or("audio/pcm");
    if kind != "audio/pcm" {
        let message = format!("`{}`, expected audio/pcm: telephone formats are not offered yet", brief(kind));
        return Err(ApiError::unsupported(format.name("type"), message));
    }
    match format.integer("rate", 1..=1_000_000)? {
        Some(rate) if rate != i64::from(CLIENT_RATE) => {
            Err(ApiError::unsupported(format.name("rate"), format_args!("{rate}, expected {CLIENT_RATE}")))
        }
        _ => Ok(()),
    }
}

impl AnswerSettings {
    /// The settings with what a client sent for the session or for one answer.
    pub(super) fn merge(&self, app: &App, fields: &Fields) -> ApiResult<Self> {
        let mut merged = self.clone();
        if let Some(modalities) = fields.list("output_modalities")? {
            merged.spoken = spoken(app, modalities, &fields.name("output_modalities"))?;
        }
        if let Some(instructions) = fields.string("instructions")? {
            instructions.clone_into(&mut merged.instructions);
        }
        if let Some(sent) = fields.get("tools") {
            merged.tools = tools(fields)?;
            merged.tools_sent = sent.clone();
        }
        if let Some(sent) = fields.get("tool_choice") {
            merged.tool_choice = ToolChoice::read(fields, &merged.tools)?;
            merged.tool_choice_sent = sent.clone();
        } else if !merged.tool_choice.fits(&merged.tools) {
            // It named what is no longer there.
            (merged.tool_choice, merged.tool_choice_sent) = (ToolChoice::Auto, json!("auto"));
        }
        merged.several_calls = fields.flag("parallel_tool_calls")?.unwrap_or(merged.several_calls);
        match fields.get("max_output_tokens") {
            None => {}
            Some(Value::String(word)) if word == "inf" => merged.max_output_tokens = None,
            Some(_) => merged.max_output_tokens = fields.count("max_output_tokens", 1)?,
        }
        if let Some(audio) = fields.object("audio")?
            && let Some(output) = audio.object("output")?
        {
            check_format(&output)?;
            if let Some(voice) = voice(app, &output)? {
                merged.voice = voice;
            }
            if output.number("speed", 0.25..=1.5)?.is_some_and(|speed| speed != 1.0) {
                return Err(ApiError::unsupported(output.name("speed"), "only 1.0: the model speaks at its own pace"));
            }
        }
        Ok(merged)
    }

    pub(super) fn modalities(&self) -> Value {
        json!([if self.spoken { "audio" } else { "text" }])
    }

    pub(super) fn output_json(&self) -> Value {
        json!({"format": pcm(), "voice": self.voice, "speed": 1.0})
    }

    pub(super) fn limit_json(&self) -> Value {
        self.max_output_tokens.map_or_else(|| json!("inf"), |limit| json!(limit))
    }

    /// Whether an answer may call more than one function.
    pub(super) fn several_calls(&self) -> bool {
        self.several_calls
    }

    /// The options of an answer.
    ///
    /// # Errors
    /// What of the tools cannot be followed.
    pub(super) fn options(&self, app: &App) -> ApiResult<GenerateOptions> {
        let limit = self.max_output_tokens.unwrap_or(app.config.max_output_tokens).min(app.omni.context_length());
        let mut options = GenerateOptions::default().max_new_tokens(limit).speech(self.spoken);
        if self.spoken {
            options = options.speaker(&self.voice);
        }
        self.tool_choice.apply(app, options, &self.tools, self.several_calls)
    }
}

fn spoken(app: &App, modalities: &[Value], param: &str) -> ApiResult<bool> {
    match modalities {
        [Value::String(only)] if only == "text" => Ok(false),
        [Value::String(only)] if only == "audio" && app.omni.speaks() => Ok(true),
        [Value::String(only)] if only == "audio" => {
            Err(ApiError::unsupported(param, "this model was loaded without speech"))
        }
        _ => Err(ApiError::unsupported(param, "expected [\"audio\"], whose words come as transcript, or [\"text\"]")),
    }
}
