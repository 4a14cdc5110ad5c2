//! The filter `tojson` of the reference: Python's `json.dumps` that escapes neither letters nor HTML unless asked.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind};

use super::limits::within;
use super::python;

/// Arguments of `json.dumps`.
struct Style {
    ensure_ascii: bool,
    /// What one level is indented by; `None` for everything in one line.
    indent: Option<String>,
    /// Stands between two items.
    between: String,
    /// Stands between a key and its value.
    after_key: String,
    sort_keys: bool,
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn filter(
    value: Value,
    rest: minijinja::value::Rest<minijinja::value::ValueOrKwargs>,
) -> Result<Value, Error> {
    let rest = rest.into_values();
    let style = style(&rest)?;
    let mut out = String::new();
    write(&mut out, &value, &style, 0)?;
    Ok(Value::from_safe_string(out))
}

/// Longest indentation, and separator, in characters.
const MOST_STYLE: usize = 64;

fn style(rest: &[Value]) -> Result<Style, Error> {
    let (positional, named): (&[Value], Kwargs) = from_args(rest)?;
    let argument = |index: usize, name: &str| -> Result<Value, Error> {
        let given: Option<Value> = named.get(name)?;
        Ok(given.or_else(|| positional.get(index).cloned()).filter(|value| !value.is_none()).unwrap_or_default())
    };
    let indent = argument(1, "indent")?;
    let indent = match (indent.as_str(), indent.as_usize()) {
        _ if indent.is_undefined() => None,
        (Some(text), _) if text.len() <= MOST_STYLE => Some(text.to_owned()),
        (None, Some(width)) if width <= MOST_STYLE => Some(" ".repeat(width)),
        _ => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: an indent that is none, or too long")),
    };
    let separators = argument(2, "separators")?;
    let separator = |index: usize, usual: &str| match separators.get_item_by_index(index) {
        Ok(given) if !given.is_undefined() => given.to_string(),
        _ => usual.to_owned(),
    };
    let [between, after_key] = [separator(0, if indent.is_some() { "," } else { ", " }), separator(1, ": ")];
    if between.len().max(after_key.len()) > MOST_STYLE {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: a separator is too long"));
    }
    let style = Style {
        ensure_ascii: argument(0, "ensure_ascii")?.is_true(),
        between,
        after_key,
        sort_keys: argument(3, "sort_keys")?.is_true(),
        indent,
    };
    named.assert_all_used()?;
    Ok(style)
}

fn write(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    let refused = |what: &str| Error::new(ErrorKind::BadSerialization, format!("tojson: {what}"));
    within(depth, out.len() + value.as_str().map_or(0, str::len))?;
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
        ValueKind::Number => out.push_str(match python::float(f64::try_from(value.clone())?).as_str() {
            "nan" => "NaN",
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            finite => finite,
        }),
        ValueKind::String => string(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            enclosed(out, ['[', ']'], &items, style, depth, |out, item| write(out, item, style, depth + 1))?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort_by_key(Value::to_string);
            }
            enclosed(out, ['{', '}'], &keys, style, depth, |out, key| {
                match key.kind() {
                    ValueKind::None | ValueKind::Bool => {
                        out.push('"');
                        write(out, key, style, depth + 1)?;
                        out.push('"');
                    }
                    _ => string(out, &python::text(key)?, style.ensure_ascii),
                }
                out.push_str(&style.after_key);
                write(out, &value.get_item(key)?, style, depth + 1)
            })?;
        }
        other => return Err(refused(&format!("a value of type {other} cannot be written"))),
    }
    Ok(())
}

/// Writes items between brackets.
fn enclosed(
    out: &mut String,
    brackets: [char; 2],
    items: &[Value],
    style: &Style,
    depth: usize,
    mut write: impl FnMut(&mut String, &Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    out.push(brackets[0]);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(&style.between);
        }
        line(out, depth + 1);
        write(out, item)?;
    }
    if !items.is_empty() {
        line(out, depth);
    }
    out.push(brackets[1]);
    Ok(())
}

/// Noncharacters, which prompts are marked with before they are rendered; they must stay findable.
const MARKS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

fn string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for sign in text.chars() {
        match sign {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            sign if sign < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(sign))),
            sign if ensure_ascii && !sign.is_ascii() && !MARKS.contains(&sign) => {
                sign.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
            sign => out.push(sign),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::super::{ChatTemplate, TemplateOptions};
    use serde_json::{Value, json};

    fn render(template: &str, messages: &Value) -> String {
        ChatTemplate::new(template.into()).unwrap().render(messages, &TemplateOptions::default()).unwrap()
    }

    #[test]
    fn json_is_written_as_python_does() {
        // The right texts are those of `json.dumps` of Python 3.
        let value = json!({"b": [1, "<é>\u{1}"], "a": null, "c": {}, "d": [], "e": true});
        let indented = "{\n  \"b\": [\n    1,\n    \"<é>\\u0001\"\n  ],\n  \"a\": null,\n  \"c\": {},\n  \"d\": [],\n  \"e\": true\n}";
        for (template, right) in [
            ("{{ messages|tojson }}", r#"{"b": [1, "<é>\u0001"], "a": null, "c": {}, "d": [], "e": true}"#),
            ("{{ messages|tojson(indent=2) }}", indented),
            ("{{ messages.b|tojson(ensure_ascii=true) }}", r#"[1, "<\u00e9>\u0001"]"#),
            ("{{ '😀'|tojson(true) }}", r#""\ud83d\ude00""#),
            (
                "{{ messages|tojson(sort_keys=true, separators=(',', ':')) }}",
                r#"{"a":null,"b":[1,"<é>\u0001"],"c":{},"d":[],"e":true}"#,
            ),
            ("{{ [1, 2]|tojson(indent='-') }}", "[\n-1,\n-2\n]"),
            ("{{ [1, 2]|tojson(indent=0) }}", "[\n1,\n2\n]"),
        ] {
            assert_eq!(render(template, &value), right, "{template}");
        }
    }

    #[test]
    fn floats_are_written_as_python_does() {
        let numbers = json!([1e-05, 1e-07, 2.5e-06, 0.0001, 1e16, 1.0, -0.0, 123456789012345680.0, 5e-324]);
        let right = "[1e-05, 1e-07, 2.5e-06, 0.0001, 1e+16, 1.0, -0.0, 1.2345678901234568e+17, 5e-324]";
        assert_eq!(render("{{ messages|tojson }}", &numbers), right);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for template in ["{{ 1|tojson(colour=2) }}", "{{ 1|tojson(indent=-1) }}", "{{ nothing|tojson }}"] {
            let template = ChatTemplate::new(template.into()).unwrap();
            let message = template.render(&json!([]), &TemplateOptions::default()).unwrap_err().to_string();
            assert!(message.contains("refuses"), "{message}");
        }
    }
}
