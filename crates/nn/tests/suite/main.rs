//! Tests of parts that several models are made of.
#![allow(clippy::unwrap_used)]

mod approx;
mod cached_attention;
mod causal;
mod embeddings;
mod formula;
mod logits;
mod norms;
mod parity;
mod products;
mod routing;
mod rows;
mod stored;
mod windows;
