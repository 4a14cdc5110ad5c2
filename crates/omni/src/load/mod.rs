//! Loading a checkpoint directory: device, weights, memory.

mod builder;
mod device;
mod memory_check;
mod origin;

pub use builder::{Loading, OmniBuilder};
pub use device::Device;
