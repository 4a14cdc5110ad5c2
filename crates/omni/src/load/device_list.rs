//! The devices of this machine.

use super::device::Device;

/// A device that models can run on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The device, as [`crate::OmniBuilder::device`] takes it.
    pub device: Device,
    /// The name of the processor or card.
    pub name: String,
    /// Free memory in bytes; `None` if it is not reported, as by graphics drivers under `wgpu`.
    pub memory: Option<u64>,
}

impl Device {
    /// Lists the devices that this build has a backend for and that the machine has. Opening cards can take some seconds.
    ///
    /// ```
    /// for found in qwen3_omni::Device::list() {
    ///     println!("--device {}: {}", found.device, found.name);
    /// }
    /// ```
    pub fn list() -> Vec<DeviceInfo> {
        [cpu(), wgpu(), cuda()].into_iter().flatten().collect()
    }
}

fn cpu() -> Vec<DeviceInfo> {
    if !cfg!(feature = "flex") {
        return Vec::new();
    }
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let name = named.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned());
    vec![DeviceInfo { device: Device::Cpu, name, memory: Device::Cpu.free_memory() }]
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Vec<DeviceInfo> {
    card(Device::Wgpu).into_iter().collect()
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Vec<DeviceInfo> {
    Vec::new()
}

#[cfg(feature = "cuda")]
fn cuda() -> Vec<DeviceInfo> {
    (0..super::device::cuda_devices()).filter_map(|index| card(Device::Cuda(index))).collect()
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Vec<DeviceInfo> {
    Vec::new()
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn card(device: Device) -> Option<DeviceInfo> {
    let name = device.open().ok()?.identity().map_or_else(|| device.to_string(), |identity| identity.name);
    let memory = device.free_memory();
    Some(DeviceInfo { device, name, memory })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "flex")]
    #[test]
    fn the_cpu_is_always_there() {
        let found = Device::list();
        assert!(found[0].device == Device::Cpu && !found[0].name.is_empty());
        assert!(!cfg!(target_os = "linux") || found[0].memory.is_some_and(|bytes| bytes > 0));
    }
}
