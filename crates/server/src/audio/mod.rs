//! `POST /v1/audio/speech` and `POST /v1/audio/transcriptions`.

mod speech;
mod transcription;

#[cfg(any(test, fuzzing))]
pub(crate) use speech::check as check_speech;
pub(crate) use speech::speech;
pub(crate) use transcription::{question, transcriptions, usage};
