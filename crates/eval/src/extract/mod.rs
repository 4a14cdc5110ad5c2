//! Answers out of texts: what a model meant by its last words.

mod choice;
mod grid;
mod integer;

pub use choice::choice;
pub use grid::{Grid, grid};
pub use integer::integer;
