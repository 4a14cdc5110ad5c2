//! What the benchmarks share.

pub mod asking;
pub mod check;
pub mod launches;
pub mod parts;
pub mod released;
pub mod stored;
pub mod timing;
