use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, context};
use omni_core::{Error, Result};
use serde_json::ser::{Formatter, Serializer};

/// The checkpoint's chat template, which renders a conversation as the prompt's text, before placeholders are expanded.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// Variables of the template besides the messages.
#[derive(Debug, Clone, Default)]
pub struct TemplateOptions {
    /// Functions that the model may call, as JSON schemas.
    pub tools: Vec<serde_json::Value>,
    /// Opens the assistant's turn at the end.
    pub add_generation_prompt: bool,
    /// Passed to the template only if set; `Some(false)` closes the thinking part at once.
    pub enable_thinking: Option<bool>,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Loads the template from `chat_template.jinja`, `chat_template.json`, or the key `chat_template` of `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Io`] naming the file.
    pub fn from_directory(directory: &Path) -> Result<Self> {
        let jinja = directory.join("chat_template.jinja");
        if jinja.is_file() {
            return Self::new(std::fs::read_to_string(&jinja).map_err(|source| Error::io(&jinja, source))?);
        }
        for file in ["chat_template.json", "tokenizer_config.json"] {
            let path = directory.join(file);
            if !path.is_file() {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(|source| Error::io(&path, source))?;
            let json: serde_json::Value =
                serde_json::from_str(&text).map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
            if let Some(template) = json[NAME].as_str() {
                return Self::new(template.to_owned());
            }
        }
        let expected = "expected chat_template.json with the key `chat_template`";
        Err(Error::Config(format!("{}: there is no chat template: {expected}", directory.display())))
    }

    /// Parses the template's text.
    ///
    /// # Errors
    /// [`Error::Config`] if the text is not a Jinja template.
    pub fn new(source: String) -> Result<Self> {
        let mut environment = Environment::new();
        // The settings of the reference: block tags remove their line, Python's string methods exist.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the default delimiters are valid"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", python_json);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| Error::Config(format!("the chat template is damaged: {error:#}")))?;
        Ok(Self { environment })
    }

    /// Renders messages, each an object with `role` and `content` (a string or a list of parts).
    ///
    /// # Errors
    /// [`Error::Request`] if the template refuses the conversation.
    pub fn render(&self, messages: &serde_json::Value, options: &TemplateOptions) -> Result<String> {
        let template = self.environment.get_template(NAME).expect("added when the template was made");
        let tools = (!options.tools.is_empty()).then_some(&options.tools);
        let thinking = options.enable_thinking.map_or(Value::UNDEFINED, Value::from);
        let values = context! {
            messages => Value::from(Serde(messages)),
            tools => tools.map_or(Value::UNDEFINED, |tools| Value::from(Serde(tools))),
            add_generation_prompt => options.add_generation_prompt,
            enable_thinking => thinking,
        };
        template.render(values).map_err(|error| Error::Request(format!("the chat template refuses this: {error:#}")))
    }
}

/// Writes JSON in Python's style: `", "` and `": "` between items, no escaping of letters or HTML.
fn python_json(value: Value) -> Result<Value, minijinja::Error> {
    let mut out = Vec::new();
    serde::Serialize::serialize(&value, &mut Serializer::with_formatter(&mut out, PythonStyle))
        .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(Value::from_safe_string(String::from_utf8(out).expect("serde_json writes UTF-8")))
}

struct PythonStyle;

impl Formatter for PythonStyle {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_written_as_python_does() {
        let template = ChatTemplate::new("{{ messages | tojson }}".into()).unwrap();
        let text = template.render(&json!({"b": [1, "<é>"], "a": null}), &TemplateOptions::default()).unwrap();
        assert_eq!(text, r#"{"b": [1, "<é>"], "a": null}"#);
    }

    #[test]
    fn a_template_may_refuse_a_conversation() {
        let template = ChatTemplate::new("{{ raise_exception('roles must alternate') }}".into()).unwrap();
        let message = template.render(&json!([]), &TemplateOptions::default()).unwrap_err().to_string();
        assert!(message.contains("roles must alternate"), "{message}");
        assert!(ChatTemplate::new("{% if %}".into()).unwrap_err().to_string().contains("damaged"));
    }
}
