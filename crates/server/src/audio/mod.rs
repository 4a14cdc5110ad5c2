//! `POST /v1/audio/speech` and `POST /v1/audio/transcriptions`.

mod speech;
mod transcription;

pub(crate) use speech::speech;
pub(crate) use transcription::{question, transcriptions};
