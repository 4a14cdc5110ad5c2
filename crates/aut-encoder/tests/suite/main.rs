//! Tests of the encoder and the decoder of AuT.
#![allow(clippy::unwrap_used)]

mod chunks;
mod decoder;
mod parity;
mod probe;
