//! Generation of an answer: thinker, talker and vocoder, each a stage in a thread of its own, and the stream of their events.

mod guards;
mod outcome;
mod reasoning;
mod stage;
mod stop;
mod stream;
mod talker;
mod thinker;
mod vocoder;

pub use stream::{Canceller, ReplyStream};
