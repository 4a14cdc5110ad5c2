//! Whether a run is resumed with the settings it began with.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::checkpoint::last_state;
use crate::{Error, Result};

/// Refuses other settings than those of the run that a folder holds, if it holds one: this needs no model. A setting that did not exist
/// when the run began counts as its default.
///
/// # Errors
/// [`Error::Changed`] for the first setting that differs, and what is wrong with the run's files.
pub fn check_unchanged<S: Serialize + DeserializeOwned + Default>(run: &Path, settings: &S) -> Result<()> {
    let Some((_, state)) = last_state(run)? else { return Ok(()) };
    let unwritten = |error: serde_json::Error| Error::Option { name: "settings", reason: error.to_string() };
    // Written and read as those of the run were: a number may differ in its last digit then.
    let now = serde_json::to_string(settings).and_then(|text| serde_json::from_str(&text)).map_err(unwritten)?;
    match difference(&filled::<S>(state.settings), &filled::<S>(now)) {
        Some((setting, [before, now])) => Err(Error::Changed { run: run.to_owned(), setting, before, now }),
        None => Ok(()),
    }
}

/// Settings with those that they lack at their defaults.
fn filled<S: Serialize + DeserializeOwned + Default>(mut settings: Value) -> Value {
    if let Ok(defaults) = serde_json::to_value(S::default()) {
        fill(&mut settings, &defaults);
    }
    // Groups that are absent by default, as that of adapters, know the defaults of what is in them.
    let read = S::deserialize(&settings).and_then(serde_json::to_value);
    read.unwrap_or(settings)
}

fn fill(settings: &mut Value, defaults: &Value) {
    let (Some(settings), Some(defaults)) = (settings.as_object_mut(), defaults.as_object()) else { return };
    for (key, default) in defaults {
        match settings.get_mut(key) {
            Some(setting) => fill(setting, default),
            None => drop(settings.insert(key.clone(), default.clone())),
        }
    }
}

/// The first setting whose values differ, with both.
fn difference(before: &Value, now: &Value) -> Option<(String, [String; 2])> {
    let (Some(old), Some(new)) = (before.as_object(), now.as_object()) else {
        return (before != now).then(|| (String::new(), [before, now].map(Value::to_string)));
    };
    old.keys().chain(new.keys()).find_map(|key| {
        let value = |settings: &serde_json::Map<String, Value>| settings.get(key).cloned().unwrap_or_default();
        let (inner, values) = difference(&value(old), &value(new))?;
        Some((if inner.is_empty() { key.clone() } else { format!("{key}.{inner}") }, values))
    })
}
