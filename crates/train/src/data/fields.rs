use serde_json::{Map, Value};

use super::location::Location;
use crate::{Error, Result};

/// The keys of a line that are not yet understood.
pub(super) struct Fields<'a> {
    pub(super) location: &'a Location,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(json: &str, location: &'a Location) -> Result<Self> {
        match serde_json::from_str(json) {
            Ok(map) => Ok(Self { location, map }),
            Err(error) => Err(location.refuse(format!("expected one JSON object: {error}"))),
        }
    }

    /// The value of a key; null is none.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.location.refuse(format!("`{key}` is {}, expected a string", kind(&other)))),
        }
    }

    /// True or false; false without the key.
    pub(super) fn flag(&mut self, key: &str) -> Result<bool> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.location.refuse(format!("`{key}` is {}, expected true or false", kind(&other)))),
        }
    }

    /// A list of objects; the list, or each of its objects, may be written as a string of JSON.
    pub(super) fn objects(&mut self, key: &str) -> Result<Vec<Value>> {
        let Some(value) = self.take(key) else { return Ok(Vec::new()) };
        let refuse = |what: &str| self.location.refuse(format!("`{key}`: {what}, expected a list of objects"));
        let unwrapped = |value: Value| match value {
            Value::String(text) => serde_json::from_str(&text).map_err(|error| refuse(&format!("no JSON ({error})"))),
            other => Ok(other),
        };
        let Value::Array(items) = unwrapped(value)? else { return Err(refuse("no list")) };
        let items = items.into_iter().map(unwrapped).collect::<Result<Vec<_>>>()?;
        match items.iter().find(|item| !item.is_object()) {
            Some(other) => Err(refuse(&format!("an item is {}", kind(other)))),
            None => Ok(items),
        }
    }

    pub(super) fn rest(self) -> Map<String, Value> {
        self.map
    }

    pub(super) fn both(&self, one: &str, other: &str) -> Error {
        self.location.refuse(format!("both `{one}` and `{other}`, expected one of them"))
    }
}

/// Names the type of a value.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
