//! Tests of parts that several models are made of.
#![allow(clippy::unwrap_used)]

mod cached_attention;
mod parity;
