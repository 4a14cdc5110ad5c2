//! What an answer gives: events while it is made, then the reply.

mod event;
mod reply;
mod wav;

pub use event::{Audio, Event};
pub use reply::{FinishReason, Played, Reply, Speech, SpeechFinish, Timings, Usage};
pub use wav::WavFile;

pub(crate) use reply::collect_reply;
