//! What the benchmarks share.

pub mod released;
