//! Tests of the vocoder.
#![allow(clippy::unwrap_used)]

mod batching;
mod frames;
mod parity;
mod streaming;
