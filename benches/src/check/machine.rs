//! The machine and its devices.

use std::collections::BTreeSet;
use std::process::Command;

use burn::tensor::DType;
use omni_core::{Dtype, Result};
use qwen3_omni::Device;
use serde_json::{Map, Value, json};

/// What `nvidia-smi` is asked for.
const FIELDS: [&str; 9] = [
    "name",
    "driver_version",
    "compute_cap",
    "memory.total",
    "clocks.max.sm",
    "clocks.max.memory",
    "power.limit",
    "pcie.link.gen.current",
    "pcie.link.width.current",
];

/// Processor, memory, system, and graphics cards as far as they can be queried.
pub fn machine(commit: &str) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "kind": "machine", "commit": commit, "cores": cores,
        "cpu": field("/proc/cpuinfo", "model name"), "memory": field("/proc/meminfo", "MemTotal"),
        "system": field("/etc/os-release", "PRETTY_NAME"), "kernel": line("/proc/sys/kernel/osrelease"),
        "cards": cards(), "cuda_headers": cuda_headers(),
    })
}

/// Opens the device and runs a small computation on it.
///
/// # Errors
/// The errors of [`Device::open`].
pub fn device(device: &Device) -> Result<Value> {
    let opened = device.open()?;
    let dtypes = Dtype::ALL.iter().filter(|dtype| opened.supports_dtype(DType::from(**dtype)));
    let dtypes: Vec<&str> = dtypes.map(|dtype| dtype.name()).collect();
    let opened = format!("{opened:?}");
    Ok(
        json!({"kind": "device", "device": device.to_string(), "opened": opened, "dtypes": dtypes, "drivers": drivers()}),
    )
}

/// The graphics drivers that this process has loaded: they tell a card from a software driver.
fn drivers() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let names = maps.lines().filter_map(|line| Some(line.rsplit_once('/')?.1.to_owned()));
    let is_driver = |name: &String| ["vulkan", "nvidia", "libcuda", "nvrtc"].iter().any(|part| name.contains(part));
    names.filter(is_driver).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Megabytes of graphics memory in use on the first card, as the driver reports them.
pub fn card_memory_mb() -> Option<u64> {
    let text = nvidia_smi("memory.used")?;
    text.lines().next()?.trim().split(' ').next()?.parse().ok()
}

/// Megabytes of this process at its largest, as the system reports them.
pub fn own_memory_mb() -> Option<u64> {
    let kibibytes: u64 = field("/proc/self/status", "VmHWM")?.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024 / 1_000_000)
}

fn cards() -> Vec<Value> {
    let text = nvidia_smi(&FIELDS.join(",")).unwrap_or_default();
    let card = |line: &str| {
        let values = line.split(',').map(|value| json!(value.trim()));
        Value::Object(FIELDS.iter().map(|field| (*field).to_owned()).zip(values).collect::<Map<_, _>>())
    };
    text.lines().map(card).collect()
}

fn nvidia_smi(fields: &str) -> Option<String> {
    let query = format!("--query-gpu={fields}");
    let output = Command::new("nvidia-smi").args([query.as_str(), "--format=csv,noheader"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Directory of the headers that kernels are compiled with, if it is found.
fn cuda_headers() -> Option<String> {
    let places = std::env::var("CUDA_PATH").into_iter().chain(["/usr/local/cuda".into(), "/opt/cuda".into()]);
    places.map(|place| format!("{place}/include")).find(|place| std::path::Path::new(place).join("cuda.h").is_file())
}

fn line(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.lines().next()?.trim().to_owned())
}

/// The value of `key: value` or `key="value"`.
fn field(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(value.trim_start_matches([' ', '\t', ':', '=']).trim_matches('"').to_owned())
}
