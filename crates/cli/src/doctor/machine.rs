//! Devices, memory, processor, programs and disks.

use std::path::{Path, PathBuf};
use std::process::Command;

use cpu_kernels::{SimdLevel, simd_level};
use qwen3_omni::{Device, DeviceInfo, available_memory};
use serde::Serialize;
use sysinfo::{DiskRefreshKind, Disks, System};

/// A device that this build may use.
#[derive(Debug, Serialize)]
pub struct DeviceReport {
    /// Its name for `--device`.
    pub name: String,
    /// The name of the processor or card.
    pub card: Option<String>,
    /// Whether this build has what drives it.
    pub built: bool,
    /// Whether it is there and computes.
    pub found: bool,
    /// Why it is not.
    pub reason: Option<String>,
}

impl DeviceReport {
    /// The CPU, the default GPU, and every NVIDIA GPU.
    pub fn all() -> Vec<Self> {
        // A driver that fails panics inside the framework; the reason is part of the report.
        std::panic::set_hook(Box::new(|_| {}));
        let found = Device::list();
        let of = |device: Device, built| Self::of(device, built, &found);
        let mut all = vec![of(Device::cpu(), cfg!(feature = "flex")), of(Device::wgpu(), cfg!(feature = "wgpu"))];
        for index in 0.. {
            let cuda = of(Device::cuda(index), cfg!(feature = "cuda"));
            let is_found = cuda.found;
            // The first that is not there ends the list, and says why there is none at all.
            if is_found || index == 0 {
                all.push(cuda);
            }
            if !is_found {
                break;
            }
        }
        let _ = std::panic::take_hook();
        all
    }

    fn of(device: Device, built: bool, found: &[DeviceInfo]) -> Self {
        let reason = device.open().err().map(|error| error.to_string());
        let card = found.iter().find(|info| info.device == device).map(|info| info.name.clone());
        Self { name: device.to_string(), card, built, found: reason.is_none(), reason }
    }
}

/// Memory of the machine, in bytes.
#[derive(Debug, Serialize)]
pub struct Memory {
    pub total: u64,
    /// What this program could take, its limits included.
    pub available: u64,
}

impl Memory {
    pub fn now() -> Self {
        let mut system = System::new();
        system.refresh_memory();
        Self {
            total: system.total_memory(),
            available: available_memory().unwrap_or_else(|| system.available_memory()),
        }
    }
}

/// The processor.
#[derive(Debug, Serialize)]
pub struct Processor {
    pub architecture: &'static str,
    /// Threads that compute.
    pub cores: usize,
    /// The highest instruction set that there is code for.
    pub instructions: String,
    /// The one in use: `QWEN3_OMNI_SIMD` may ask for less.
    pub used: String,
}

impl Processor {
    pub fn this() -> Self {
        let name = |level: SimdLevel| format!("{level:?}").to_lowercase();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (instructions, used) = (name(SimdLevel::detected()), name(simd_level()));
        Self { architecture: std::env::consts::ARCH, cores, instructions, used }
    }
}

/// The first line that an installed `ffmpeg` says of itself.
pub fn ffmpeg() -> Option<String> {
    let output = Command::new("ffmpeg").arg("-version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Its copyright follows.
    let line = text.lines().next()?.split(" Copyright").next()?;
    output.status.success().then(|| line.trim().to_owned())
}

/// The folder that this program writes to, and the space on its disk.
#[derive(Debug, Serialize)]
pub struct Cache {
    pub folder: PathBuf,
    /// In bytes; `None` if unknown.
    pub free: Option<u64>,
}

impl Cache {
    pub fn of_user() -> Option<Self> {
        let folder = dirs::cache_dir()?.join("qwen3-omni");
        Some(Self { free: free_space(&folder), folder })
    }
}

/// Space on the disk whose mount point is the longest beginning of the path.
fn free_space(path: &Path) -> Option<u64> {
    let real = path.ancestors().find_map(|path| path.canonicalize().ok())?;
    let disks = Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing().with_storage());
    let holds = disks.list().iter().filter(|disk| real.starts_with(disk.mount_point()));
    holds.max_by_key(|disk| disk.mount_point().as_os_str().len()).map(|disk| disk.available_space())
}
