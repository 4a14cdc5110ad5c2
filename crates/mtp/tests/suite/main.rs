//! Tests of the predictor of residual codes.
#![allow(clippy::unwrap_used)]

mod batching;
mod drafts;
mod parity;
