//! Tests of the encoder of Mimi.
#![allow(clippy::unwrap_used)]

mod errors;
mod golden;
mod parity;
mod streaming;
