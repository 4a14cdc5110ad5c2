//! Sharing of one model between answers: admission, continuous batching, CPU threads.

mod admission;
mod batcher;
mod batches;
mod gate;
mod pool;

pub(crate) use admission::{Admission, Permit};
pub(crate) use batcher::{Batcher, Slot};
pub(crate) use batches::*;
pub(crate) use gate::Gate;
pub(crate) use pool::CpuPool;
