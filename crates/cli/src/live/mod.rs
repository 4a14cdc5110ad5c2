//! The machine's microphone and speakers.

mod microphone;
mod speakers;

use std::time::Duration;

use qwen3_omni::Error;

pub use microphone::Microphone;
pub use speakers::Speakers;

/// How often it is looked whether sound has come or was played.
const TICK: Duration = Duration::from_millis(10);

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Device(format!("sound: {error}"))
}

fn absent(what: &str) -> Error {
    Error::Device(format!("this machine has no {what}"))
}
