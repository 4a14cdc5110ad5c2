//! What reaches the thread of a session: from its client, its answers and its transcripts.

use axum::extract::ws::Utf8Bytes;
use qwen3_omni::Event;
use serde_json::Value;

use crate::admission::Permit;
use crate::error::{ApiError, ApiResult};
use crate::media::Fetched;
use crate::outbox::Taken;

/// What the worker is told.
pub(crate) enum Input {
    /// A text frame of the client, and its room among what waits.
    Client(Utf8Bytes, Taken),
    /// An event of the client, its room, and the files that were fetched for it.
    Fetched(Utf8Bytes, Taken, ApiResult<Fetched>),
    /// A binary frame, which has no meaning.
    Binary,
    /// A place for the response of this id.
    Placed(String, ApiResult<Permit>),
    /// An item of the answer that is being generated.
    Answer(qwen3_omni::Result<Event>),
    /// That answer is read no longer.
    AnswerEnded,
    /// The time of the response of this id is over.
    TimeOver(String),
    Transcript(String, Transcript),
    /// No answer was asked for since a turn ended.
    NotAsked,
    /// The session ends: what to say, and how to close.
    End(Option<ApiError>, u16, &'static str),
    /// The client has gone.
    Gone,
}

/// News of a transcript.
pub(crate) enum Transcript {
    Piece(String),
    Done { text: String, usage: Value },
    Failed(ApiError),
}
