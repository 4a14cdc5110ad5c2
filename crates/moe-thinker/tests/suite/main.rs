//! Tests of the thinker.
#![allow(clippy::unwrap_used)]

mod batching;
mod gradients;
mod media_rows;
mod parity;
mod pieces;
