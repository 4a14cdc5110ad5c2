//! Tests of the vision encoder.
#![allow(clippy::unwrap_used)]

mod parity;
mod probe;
