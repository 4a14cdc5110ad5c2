//! Output of an answer: events while it is generated, then the reply, and WAV files.

mod event;
mod reply;
mod wav;

pub use event::{Audio, Event};
pub use reply::{FinishReason, Played, Reply, Speech, SpeechFinish, Timings, Usage};
pub use wav::{WavFile, WavWriter};

pub(crate) use reply::collect_reply;
