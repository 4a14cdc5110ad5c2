//! Objects of a request, read field by field, so that an error can name the field.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{ApiError, ApiResult};

/// An object of a request. A field that is `null` counts as missing; unknown fields are ignored.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    /// Takes the whole request.
    pub(crate) fn of_request(value: &'a Value) -> ApiResult<Self> {
        let object = value.as_object().ok_or_else(|| {
            let message = format!("the request is {}, expected a JSON object", kind(value));
            ApiError::new(axum::http::StatusCode::BAD_REQUEST, "invalid_json", message)
        })?;
        Ok(Self { object, path: String::new() })
    }

    /// Takes a value of the request that lies at `path`.
    pub(crate) fn at(value: &'a Value, path: impl Into<String>) -> ApiResult<Self> {
        let path = path.into();
        match value.as_object() {
            Some(object) => Ok(Self { object, path }),
            None => Err(ApiError::invalid(path, format_args!("{}, expected an object", kind(value)))),
        }
    }

    /// The full name of a field.
    pub(crate) fn name(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    /// A field of any type; `None` if it is missing or null.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    /// Whether the field stands there as `null`.
    pub(crate) fn is_null(&self, field: &str) -> bool {
        self.object.get(field).is_some_and(Value::is_null)
    }

    fn read<T>(&self, field: &str, expected: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> ApiResult<Option<T>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let wrong = || ApiError::invalid(self.name(field), format_args!("{}, expected {expected}", kind(value)));
        read(value).map(Some).ok_or_else(wrong)
    }

    pub(crate) fn string(&self, field: &str) -> ApiResult<Option<&'a str>> {
        self.read(field, "a string", Value::as_str)
    }

    pub(crate) fn flag(&self, field: &str) -> ApiResult<Option<bool>> {
        self.read(field, "true or false", Value::as_bool)
    }

    /// The arguments of a function's call: JSON in a string, an empty one for none, or an object.
    pub(crate) fn arguments(&self) -> ApiResult<Option<Value>> {
        const FIELD: &str = "arguments";
        if let Some(object @ Value::Object(_)) = self.get(FIELD) {
            return Ok(Some(object.clone()));
        }
        let Some(text) = self.string(FIELD)? else { return Ok(None) };
        let text = if text.trim().is_empty() { "{}" } else { text };
        let wrong = |error| ApiError::invalid(self.name(FIELD), format_args!("no valid JSON: {error}"));
        serde_json::from_str(text).map(Some).map_err(wrong)
    }

    pub(crate) fn list(&self, field: &str) -> ApiResult<Option<&'a [Value]>> {
        self.read(field, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    pub(crate) fn object(&self, field: &str) -> ApiResult<Option<Fields<'a>>> {
        self.object_or(field, "an object")
    }

    fn object_or(&self, field: &str, expected: &str) -> ApiResult<Option<Fields<'a>>> {
        let object = self.read(field, expected, Value::as_object)?;
        Ok(object.map(|object| Fields { object, path: self.name(field) }))
    }

    /// A number within a range.
    pub(crate) fn number(&self, field: &str, range: RangeInclusive<f64>) -> ApiResult<Option<f64>> {
        let number = self.read(field, "a number", Value::as_f64)?;
        self.within(field, number, &range)
    }

    /// A whole number within a range; `2.0` is one.
    pub(crate) fn integer(&self, field: &str, range: RangeInclusive<i64>) -> ApiResult<Option<i64>> {
        let whole = |value: &Value| {
            let rounded = || value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 9e15);
            value.as_i64().or_else(|| rounded().map(|number| number as i64))
        };
        let number = self.read(field, "a whole number", whole)?;
        self.within(field, number, &range)
    }

    /// A count of at least `least`.
    pub(crate) fn count(&self, field: &str, least: i64) -> ApiResult<Option<usize>> {
        Ok(self.integer(field, least..=i64::from(u32::MAX))?.map(|count| count as usize))
    }

    fn within<T: PartialOrd + std::fmt::Display>(
        &self,
        field: &str,
        number: Option<T>,
        range: &RangeInclusive<T>,
    ) -> ApiResult<Option<T>> {
        match number {
            Some(number) if !range.contains(&number) => {
                let message = format!("{number}, expected {} to {}", range.start(), range.end());
                Err(ApiError::invalid(self.name(field), message))
            }
            number => Ok(number),
        }
    }

    /// One of several words.
    pub(crate) fn one_of<T: Copy>(&self, field: &str, words: &[(&str, T)]) -> ApiResult<Option<T>> {
        let Some(word) = self.string(field)? else { return Ok(None) };
        let found = words.iter().find(|(name, _)| *name == word);
        found.map(|(_, value)| Some(*value)).ok_or_else(|| {
            let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
            ApiError::unsupported(
                self.name(field),
                format_args!("`{}`, expected one of {}", brief(word), names.join(", ")),
            )
        })
    }

    /// One of several words, for which nothing is returned, or an object.
    pub(crate) fn word_or_object(&self, field: &str, words: &[&str]) -> ApiResult<Option<Fields<'a>>> {
        match self.get(field) {
            Some(Value::String(_)) => {
                let words: Vec<(&str, ())> = words.iter().map(|word| (*word, ())).collect();
                self.one_of(field, &words).map(|_| None)
            }
            _ => self.object_or(field, &format!("{} or an object", words.join(", "))),
        }
    }

    /// Checks the types of fields that are known and have no effect.
    pub(crate) fn check(&self, strings: &[&str], flags: &[&str], objects: &[&str]) -> ApiResult<()> {
        strings.iter().try_for_each(|field| self.string(field).map(drop))?;
        flags.iter().try_for_each(|field| self.flag(field).map(drop))?;
        objects.iter().try_for_each(|field| self.object(field).map(drop))
    }

    /// A field that must be there.
    pub(crate) fn required<T>(&self, field: &str, value: Option<T>) -> ApiResult<T> {
        value.ok_or_else(|| ApiError::missing(self.name(field)))
    }
}

/// The beginning of what a client wrote, to be repeated in a message.
pub(crate) fn brief(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What a value is, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wrong_field_is_named_with_its_path() {
        let request = json!({"audio": {"voice": 3}, "n": 2.5, "top_p": 7, "seed": 3.0, "stop": null});
        let fields = Fields::of_request(&request).unwrap();
        let audio = fields.object("audio").unwrap().unwrap();
        let errors = [
            audio.string("voice").unwrap_err(),
            fields.integer("n", 1..=16).unwrap_err(),
            fields.number("top_p", 0.0..=1.0).unwrap_err(),
            fields.object("seed").err().unwrap(),
            fields.one_of("seed", &[("a", 1)]).unwrap_err(),
        ];
        let named: Vec<_> = errors.iter().map(|error| error.param.as_deref().unwrap()).collect();
        assert_eq!(named, ["audio.voice", "n", "top_p", "seed", "seed"]);
        assert!(errors[2].message.contains("7, expected 0 to 1"), "{}", errors[2].message);
        assert_eq!(fields.integer("seed", 0..=9).unwrap(), Some(3));
        assert_eq!(fields.string("stop").unwrap(), None);
        assert!(fields.is_null("stop") && !fields.is_null("start"));
    }

    #[test]
    fn a_request_that_is_no_object_is_refused() {
        for value in [json!([]), json!("a"), json!(null)] {
            assert_eq!(Fields::of_request(&value).err().unwrap().code, "invalid_json");
        }
    }

    #[test]
    fn arguments_are_json_in_a_string_or_an_object() {
        for (given, read) in [
            (json!({"arguments": "{\"a\": 1}"}), Some(json!({"a": 1}))),
            (json!({"arguments": ""}), Some(json!({}))),
            (json!({"arguments": {"a": 1}}), Some(json!({"a": 1}))),
            (json!({}), None),
        ] {
            assert_eq!(Fields::of_request(&given).unwrap().arguments().unwrap(), read, "{given}");
        }
        for wrong in [json!({"arguments": "{"}), json!({"arguments": 3})] {
            let error = Fields::of_request(&wrong).unwrap().arguments().unwrap_err();
            assert_eq!(error.param.as_deref(), Some("arguments"));
        }
    }
}
