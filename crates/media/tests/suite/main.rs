//! Tests of reading sounds, pictures and films.
#![allow(clippy::unwrap_used)]

mod bad_inputs;
mod formats;
mod parity;
mod sounds;
