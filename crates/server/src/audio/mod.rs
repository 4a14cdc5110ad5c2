//! Texts read aloud, and recordings written down.

mod sentences;
mod speech;
mod speech_events;
mod speech_stream;
mod transcription;

#[cfg(any(test, fuzzing))]
pub(crate) use speech::check as check_speech;
pub(crate) use speech::speech;
#[cfg(any(test, fuzzing))]
pub(crate) use speech_events::check as check_speech_events;
pub(crate) use speech_stream::connect as speech_stream;
pub(crate) use transcription::{question, transcriptions, usage};
