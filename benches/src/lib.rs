//! What the benchmarks share.

pub mod asking;
pub mod check;
pub mod full_size;
pub mod launches;
pub mod parts;
pub mod stored;
pub mod timing;
