//! Functions that the model may, must or must not call.

use qwen3_omni::{GenerateOptions, Grammar};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// Which functions an answer calls.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ToolChoice {
    /// The model decides.
    Auto,
    /// None; they are left out of the prompt, too.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// The functions of a request, in the form of chat completions; those of realtime sessions, which lack the inner object, are put into it.
pub(crate) fn tools(fields: &Fields) -> ApiResult<Vec<Value>> {
    let list = fields.list("tools")?.unwrap_or_default();
    list.iter().enumerate().map(|(index, tool)| read_tool(tool, &fields.name(&format!("tools[{index}]")))).collect()
}

fn read_tool(tool: &Value, path: &str) -> ApiResult<Value> {
    let fields = Fields::at(tool, path)?;
    let kind = fields.string("type")?.unwrap_or("function");
    if kind != "function" {
        let message = format!("`{}`, expected function", crate::fields::brief(kind));
        return Err(ApiError::unsupported(fields.name("type"), message));
    }
    let function = fields.object("function")?.unwrap_or_else(|| fields.clone());
    let name = function.string("name")?;
    let name = function.required("name", name)?;
    function.check(&["description"], &["strict"], &["parameters"])?;
    let mut described = json!({"name": name});
    for field in ["description", "parameters"] {
        if let Some(value) = function.get(field) {
            described[field] = value.clone();
        }
    }
    Ok(json!({"type": "function", "function": described}))
}

fn name(tool: &Value) -> &str {
    tool["function"]["name"].as_str().unwrap_or_default()
}

impl ToolChoice {
    /// Reads `tool_choice`.
    pub(crate) fn read(fields: &Fields, tools: &[Value]) -> ApiResult<Self> {
        let Some(value) = fields.get("tool_choice") else { return Ok(Self::Auto) };
        let param = fields.name("tool_choice");
        let wrong = || ApiError::invalid(&param, "expected auto, none, required, or a function of `tools` by its name");
        let choice = match value {
            Value::String(word) => match word.as_str() {
                "auto" => Self::Auto,
                "none" => Self::None,
                "required" => Self::Required,
                _ => return Err(wrong()),
            },
            value => {
                let named = value["function"]["name"].as_str().or_else(|| value["name"].as_str());
                Self::Named(named.ok_or_else(wrong)?.to_owned())
            }
        };
        if choice.fits(tools) { Ok(choice) } else { Err(wrong()) }
    }

    /// Whether it names only what is there.
    pub(crate) fn fits(&self, tools: &[Value]) -> bool {
        match self {
            Self::Named(wanted) => tools.iter().any(|tool| name(tool) == wanted),
            Self::Required => !tools.is_empty(),
            Self::Auto | Self::None => true,
        }
    }

    /// Whether the answer is held to calling a function.
    pub(crate) fn forces(&self) -> bool {
        matches!(self, Self::Required | Self::Named(_))
    }

    /// Shows the functions to the model, and holds it to calling them if it must.
    ///
    /// # Errors
    /// 400 for parameters that cannot be followed.
    pub(crate) fn apply(
        &self,
        app: &App,
        options: GenerateOptions,
        tools: &[Value],
        several: bool,
    ) -> ApiResult<GenerateOptions> {
        let callable: Vec<Value> = match self {
            Self::Auto => return Ok(options.tools(tools.iter().cloned())),
            Self::None => return Ok(options),
            Self::Required => tools.to_vec(),
            Self::Named(wanted) => tools.iter().filter(|tool| name(tool) == wanted).cloned().collect(),
        };
        let failed = |error| ApiError::invalid("tools", error);
        let grammar = Grammar::tool_calls(&callable, several).map_err(failed)?;
        app.omni.check_grammar(&grammar).map_err(failed)?;
        Ok(options.tools(tools.iter().cloned()).hook(grammar).enable_thinking(false))
    }
}
