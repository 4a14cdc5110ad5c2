//! Output of an answer: events while it is generated, then the reply, and WAV files.

mod audio;
mod event;
mod reply;
mod seconds;
mod wav;
mod words;

pub use audio::Audio;
pub use event::Event;
pub use reply::{
    FinishReason, LogProb, Played, PromptTokens, Reply, Speech, SpeechFinish, Timings, TokenLogProbs, ToolCall, Usage,
};
pub use wav::{WavFile, WavWriter};

pub use words::SpokenWord;

pub(crate) use event::collect_reply;
pub(crate) use words::{Loudness, Pace, Spoken};
