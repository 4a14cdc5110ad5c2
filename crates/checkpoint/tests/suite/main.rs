//! Tests of checkpoints: tensors, packed matrices, adapters.
#![allow(clippy::unwrap_used)]

mod adapters;
mod matrix;
mod packed;
mod properties;
mod weights;
