//! Values as Python writes them: chat templates are written for it.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// What Python's `str` gives for a value.
pub(super) fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => repr(value),
    }
}

/// What Python's `repr` gives for a value; an undefined one is empty.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number if !value.is_integer() => float(f64::try_from(value.clone()).unwrap_or(f64::NAN)),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq if value.is_tuple() => {
            let items = items(value);
            format!("({}{})", items.join(", "), if items.len() == 1 { "," } else { "" })
        }
        ValueKind::Seq => format!("[{}]", items(value).join(", ")),
        ValueKind::Map => {
            let members = value.try_iter().into_iter().flatten();
            let members =
                members.map(|key| format!("{}: {}", repr(&key), repr(&value.get_item(&key).unwrap_or_default())));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

fn items(value: &Value) -> Vec<String> {
    value.try_iter().into_iter().flatten().map(|item| repr(&item)).collect()
}

/// The shortest digits that mean the same number, with an exponent below 10⁻⁴ and from 10¹⁶.
pub(super) fn float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => {
            let plain = format!("{number}");
            if plain.contains('.') { plain } else { plain + ".0" }
        }
    }
}

/// A string in quotes: single ones, unless it has single and no double ones.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for sign in text.chars() {
        match sign {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            sign if sign == quote => out.extend(['\\', sign]),
            sign if sign.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(sign))),
            sign => out.push(sign),
        }
    }
    out.push(quote);
    out
}

/// The local time in a format of C's `strftime`.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    let refused = |error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}"));
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(refused)
}
