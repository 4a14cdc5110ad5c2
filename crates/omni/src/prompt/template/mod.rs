//! The checkpoint's chat template, in Jinja as the reference's renderer understands it.

mod json;
mod limits;
mod python;
mod source;

use std::path::Path;

use checkpoint::read_json;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, Output, State};
use omni_core::{Error, Result};
use serde_json::Value as Json;

use limits::Bounded;
use source::{NAME, SETTINGS};

/// Before a function call in an answer, as chat templates tell models to write it.
pub(crate) const CALL_OPEN: &str = "<tool_call>";
/// After a function call.
pub(crate) const CALL_CLOSE: &str = "</tool_call>";

/// The checkpoint's chat template, which renders a conversation as the prompt's text, before placeholders are expanded.
///
/// A template is a program that comes with the weights: its size, its nesting, its steps and what it writes are bounded. Intermediate
/// values and the time per step are not: load only checkpoints that you trust as you trust code.
///
/// ```
/// use qwen3_omni::{ChatTemplate, TemplateOptions};
///
/// let template = ChatTemplate::new("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}".into())?;
/// let chat = serde_json::json!([{"role": "user", "content": "hello"}]);
/// assert_eq!(template.render(&chat, &TemplateOptions::default())?, "<user>hello");
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// Variables of the template besides the messages.
#[derive(Debug, Clone, Default)]
#[must_use]
#[non_exhaustive]
pub struct TemplateOptions {
    /// Functions that the model may call, as JSON schemas.
    pub tools: Vec<Json>,
    /// Opens the assistant's turn at the end.
    pub add_generation_prompt: bool,
    /// Passed to the template only if set; `Some(false)` closes the thinking part at once.
    pub enable_thinking: Option<bool>,
}

omni_core::setters! { TemplateOptions {
    tools: impl IntoIterator<Item = Json> => tools.into_iter().collect(),
    add_generation_prompt: bool,
    enable_thinking: impl Into<Option<bool>> => enable_thinking.into(),
} }

impl ChatTemplate {
    /// Loads the template from `chat_template.jinja`, `chat_template.json`, or the key `chat_template` of `tokenizer_config.json`: a
    /// text, or a list of named texts of which `default` is taken. Special tokens that `tokenizer_config.json` names, such as
    /// `eos_token`, are variables of the template.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Io`] naming the file.
    pub fn from_directory(directory: &Path) -> Result<Self> {
        let settings = directory.join(SETTINGS);
        let settings: Json = if settings.exists() { read_json(&settings)? } else { Json::Null };
        let (path, text) = source::find(directory, &settings)?;
        let mut template = Self::new(text).map_err(|error| match error {
            Error::Config { reason, source } => {
                Error::Config { reason: format!("{}: {reason}", path.display()), source }
            }
            other => other,
        })?;
        for (name, token) in source::special_tokens(&settings) {
            template.environment.add_global(name, token);
        }
        Ok(template)
    }

    /// Parses the template's text.
    ///
    /// # Errors
    /// [`Error::Config`] if the text is not a Jinja template, or is larger or nested deeper than any chat template.
    pub fn new(source: String) -> Result<Self> {
        limits::check(&source)?;
        let mut environment = Environment::new();
        // The settings of the reference: block tags remove their line, Python's string methods exist.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the default delimiters are valid"));
        limits::set(&mut environment);
        environment.set_formatter(write_value);
        environment.add_filter("tojson", json::filter);
        environment.add_filter("string", |value: Value| python::text(&value));
        environment.add_function("strftime_now", python::strftime_now);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        let parsed = environment.add_template_owned(NAME, source::without_generation_tags(&source));
        parsed.map_err(|error| limits::damaged(format!("{error:#}")).caused_by(error))?;
        Ok(Self { environment })
    }

    /// Renders messages, each an object with `role` and `content` (a string or a list of parts).
    ///
    /// # Errors
    /// [`Error::Request`] if the template refuses the conversation, or takes more steps or writes more than any chat template.
    pub fn render(&self, messages: &Json, options: &TemplateOptions) -> Result<String> {
        let template = self.environment.get_template(NAME).expect("added when the template was made");
        let tools = (!options.tools.is_empty()).then_some(&options.tools);
        let thinking = options.enable_thinking.map_or(Value::UNDEFINED, Value::from);
        let values = minijinja::context! {
            messages => Value::from(Serde(messages)),
            tools => tools.map_or(Value::UNDEFINED, |tools| Value::from(Serde(tools))),
            add_generation_prompt => options.add_generation_prompt,
            enable_thinking => thinking,
        };
        let mut text = Bounded::default();
        let rendered = template.render_captured_to(values, &mut text).map(drop);
        rendered.map_err(|error| match text.full {
            true => Error::Request("the chat template's output is too long".into()),
            false => Error::Request(format!("the chat template refuses this: {error:#}")),
        })?;
        Ok(text.into_string())
    }
}

/// Writes a value into the output as Python's `str` does.
fn write_value(out: &mut Output, _: &mut State, value: &Value) -> Result<(), minijinja::Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&python::text(value)?),
    };
    written.map_err(|_| minijinja::Error::new(ErrorKind::WriteFailure, "the output is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str, messages: &Json) -> String {
        ChatTemplate::new(template.into()).unwrap().render(messages, &TemplateOptions::default()).unwrap()
    }

    fn refused(template: &str) -> String {
        match ChatTemplate::new(template.into()) {
            Ok(template) => template.render(&json!([]), &TemplateOptions::default()).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_template_may_refuse_a_conversation() {
        assert!(refused("{{ raise_exception('roles must alternate') }}").contains("roles must alternate"));
        assert!(refused("{% if %}").contains("damaged"));
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        // The right texts are those of Python 3 with jinja2.
        for (template, right) in [
            ("{{ 0.1 + 0.2 }} {{ 1e20 }} {{ 10 / 4 }} {{ 4 / 2 }}", "0.30000000000000004 1e+20 2.5 2.0"),
            (
                "{{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ -0.0 }}",
                "1e+16 1000000000000000.0 0.0001 1e-05 -0.0",
            ),
            ("{{ true }} {{ none }} {{ nothing }}|{{ [1, 'a', none, 2.0] }}", "True None |[1, 'a', None, 2.0]"),
            ("{{ {'a': \"it's\", 'b': [false]} }}", "{'a': \"it's\", 'b': [False]}"),
            ("{{ [true, none] * 2 }}", "[True, None, True, None]"),
            ("{{ (1.0)|string ~ '!' }}", "1.0!"),
        ] {
            assert_eq!(render(template, &json!([])), right, "{template}");
        }
    }

    #[test]
    fn generation_tags_mark_nothing_here() {
        let template = "{% for m in messages %}{%- generation -%} {{ m.content }} {%- endgeneration %}\n{% endfor %}";
        assert_eq!(render(template, &json!([{"content": "a"}, {"content": "b"}])), "ab");
    }

    #[test]
    fn the_date_is_that_of_today() {
        let before = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
        let found = render("{{ strftime_now('%Y-%m-%d') }}", &json!([]));
        let after = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
        assert!(found == before || found == after, "{found}");
        assert!(refused("{{ strftime_now('%') }}").contains("strftime_now"));
    }

    #[test]
    fn work_output_and_nesting_are_bounded() {
        let inner = "{% for i in range(99999) %}";
        let nested = |depth: usize| format!("{}x{}", "{% if true %}".repeat(depth), "{% endif %}".repeat(depth));
        for (template, expected) in [
            (format!("{inner}{inner}{{% endfor %}}{{% endfor %}}"), "fuel"),
            (format!("{inner}{{{{ 'x' * 99999 }}}}{{% endfor %}}"), "too long"),
            (format!("{{{{ {}1 }}}}", "1+".repeat(10_000)), "operators"),
            (format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000)), "operators"),
            (format!("{{{{ x{} }}}}", "|trim".repeat(4_000)), "operators"),
            (format!("{{{{ {}x }}}}", "not ".repeat(5_000)), "operators"),
            (format!("{{{{ {}1 }}}}", "1 if x else ".repeat(2_000)), "operators"),
            (nested(2_000), "nested"),
            (format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(2_000)), "nested"),
            ("x".repeat(2 << 20), "bytes"),
            ("{{ ('x' * 90000000)|replace('x', 'yyyyyyyyyyyyyyyyyyyy') }}".into(), "too long"),
            ("{{ (('x\n' * 9000)|indent(90000)) }}".into(), "too long"),
            ("{{ ([0] * 90000000)|list }}".into(), "too long"),
            ("{{ [0]|batch(900000000, 1) }}".into(), "too long"),
            ("{{ '%900000000d'|format(1) }}".into(), "too long"),
            ("{{ ([0] * 90000000)|join('abc') }}".into(), "too long"),
            ("{{ 'x'|indent(width=1000000000000000000) }}".into(), "too long"),
            ("{{ ''|indent(1000000000000000000) }}".into(), "too long"),
            ("{{ (['x' * 90000000] * 1000)|join }}".into(), "too long"),
            ("{{ [0, 1]|join(d='x' * 90000000) }}".into(), "too long"),
            ("{{ '%s%s%s'|format('x' * 30000000) }}".into(), "too long"),
            ("{{ ([0] * 1000)|tojson(indent='x' * 90000000) }}".into(), "indent"),
            ("{{ [0, 1]|tojson(separators=('x' * 90000000, ':')) }}".into(), "separator"),
            ("{{ ['x' * 90000000] * 1000 }}".into(), "too long"),
            ("{{ (['x' * 90000000] * 1000)|tojson }}".into(), "too long"),
            ("{{ ('x,' * 40000000).split(',') }}".into(), "too long"),
            ("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}".into(), "too deep"),
            ("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns|tojson }}".into(), "too deep"),
            // Where this scanner must end tags as the parser does.
            (format!("{{{{ {{'a':{{}}}} and {}x }}}}", "not ".repeat(5_000)), "operators"),
            (
                format!(
                    "{{% raw %}}{{{{ ' {{% endraw %}}{{% if a %}}{}{{% endif %}}{{# ' }}}} #}}",
                    "{% elif a %}".repeat(2_000)
                ),
                "nested",
            ),
            (
                format!("{{#}}{{{{ ' #}}{{% if a %}}{}{{% endif %}}{{# ' }}}} #}}", "{% elif a %}".repeat(2_000)),
                "nested",
            ),
        ] {
            let message = refused(&template);
            assert!(message.contains(expected), "{}…: {message}", &template[..template.len().min(60)]);
        }
        // What is allowed leaves room on the smallest stack that programs give their threads.
        let deepest = [nested(limits::MOST_NESTED), format!("{{{{ {}1 }}}}", "1+".repeat(limits::MOST_OPERATORS - 2))];
        let small = std::thread::Builder::new().stack_size(1 << 20);
        small.spawn(move || deepest.map(|template| render(&template, &json!([])))).unwrap().join().unwrap();
    }
}
