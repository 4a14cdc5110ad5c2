//! The commands as programs offer them: their arguments, what they print, and how they end.
//!
//! `weights-tools` and `qwen3-omni` share them. A command's `run` returns false if it could run but found what it should not, for
//! which a program exits with 1.

mod compare;
mod inspect;
pub mod interrupt;
mod progress;
mod terminal;
mod verify;
mod write;

pub use compare::Compare;
pub use inspect::Inspect;
pub use progress::Watch;
pub use terminal::{Output, note, usage};
pub use verify::Verify;
pub use write::{Convert, Init, Merge, Quantize};
