//! Tests of the talker.
#![allow(clippy::unwrap_used)]

mod parity;
mod talker;
