//! Python's formatting of values, which chat templates rely on.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::limits::within;

/// What Python's `str` gives for a value.
///
/// # Errors
/// If it is nested too deep, or too long, to be written.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.as_str() {
        Some(text) => push(&mut out, text)?,
        None => repr(&mut out, value, 0)?,
    }
    Ok(out)
}

fn push(out: &mut String, text: &str) -> Result<(), Error> {
    within(0, out.len() + text.len())?;
    out.push_str(text);
    Ok(())
}

/// Writes what Python's `repr` gives for a value; an undefined one is empty.
fn repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    within(depth, out.len())?;
    match value.kind() {
        ValueKind::None => push(out, "None"),
        ValueKind::Bool => push(out, if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if !value.is_integer() => push(out, &float(f64::try_from(value.clone()).unwrap_or(f64::NAN))),
        ValueKind::String => push(out, &quoted(value.as_str().unwrap_or_default())),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
            push(out, open)?;
            let mut count = 0;
            for item in value.try_iter()? {
                push(out, if count > 0 { ", " } else { "" })?;
                repr(out, &item, depth + 1)?;
                count += 1;
            }
            push(out, if value.is_tuple() && count == 1 { "," } else { "" })?;
            push(out, close)
        }
        ValueKind::Map => {
            push(out, "{")?;
            for (index, key) in value.try_iter()?.enumerate() {
                push(out, if index > 0 { ", " } else { "" })?;
                repr(out, &key, depth + 1)?;
                push(out, ": ")?;
                repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            push(out, "}")
        }
        _ => push(out, &value.to_string()),
    }
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
