//! Tests of parts that several models are made of.
#![allow(clippy::unwrap_used)]

mod approx;
mod cached_attention;
mod causal;
mod formula;
mod norms;
mod parity;
mod products;
mod stored;
mod windows;
