//! Generation of an answer: thinker, talker and vocoder, each a stage in a thread of its own, and the stream of their events.

#[cfg(feature = "async")]
mod asynchronous;
mod choice;
mod guards;
mod outcome;
mod prose;
mod report;
mod splitter;
mod stage;
mod stop;
mod stream;
mod talker;
mod thinker;
mod vocoder;

#[cfg(feature = "async")]
pub use asynchronous::AsyncEvents;
#[cfg(feature = "async")]
pub(crate) use asynchronous::PollEvent;
pub use stream::{Canceller, ReplyStream};
