//! Tests of the facade.
#![allow(clippy::unwrap_used)]

mod adapters;
mod answers;
mod batching;
mod checkpoint_errors;
mod control;
mod conversation;
mod media;
mod parity;
mod peoples_checkpoints;
mod quantized;
mod random_weights;
mod recogniser;
mod released;
mod sessions;
mod streaming;
mod texts;
mod wiring;
