//! Loading a checkpoint directory: device, files, weights, memory.

mod adapter;
mod builder;
mod companions;
mod device;
mod device_list;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu_runtime;
mod memory_check;
mod model_files;
mod origin;
mod token_check;

pub use builder::{Loading, OmniBuilder};
pub use device::Device;
pub use device_list::DeviceInfo;
pub use memory_check::available_memory;
pub use model_files::OmniCheckpoint;
