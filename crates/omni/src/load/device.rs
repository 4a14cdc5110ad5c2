use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use burn::tensor::{DType, Tensor};
use omni_core::{Dtype, Error, Place, Result};

use super::memory_check::available_memory;

/// Where a model runs. The device is opened when the model is loaded; a missing one is an error then.
///
/// ```
/// use qwen3_omni::{Device, Dtype};
///
/// let device: Device = "cuda:1".parse()?;
/// assert_eq!((&device, device.default_dtype()), (&Device::cuda(1), Dtype::Bf16));
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Device {
    /// The CPU, with the kernels of these crates, in pure Rust.
    #[default]
    Cpu,
    /// The default GPU through Vulkan, Metal or DirectX 12.
    Wgpu,
    /// An NVIDIA GPU, by index.
    Cuda(usize),
    /// A burn device that is already open; the model computes with burn tensors, on the CPU too.
    Open(burn::tensor::Device),
}

impl Device {
    /// The CPU.
    pub fn cpu() -> Self {
        Device::Cpu
    }

    /// The default GPU through Vulkan, Metal or DirectX 12.
    pub fn wgpu() -> Self {
        Device::Wgpu
    }

    /// An NVIDIA GPU, by index.
    pub fn cuda(index: usize) -> Self {
        Device::Cuda(index)
    }

    /// The default number type of the computation. On the CPU a checkpoint that names bfloat16 is computed in bf16 instead; see
    /// [`crate::OmniBuilder::dtype`].
    pub fn default_dtype(&self) -> Dtype {
        match self {
            Device::Cuda(_) => Dtype::Bf16,
            _ => Dtype::F32,
        }
    }

    /// The default number type for a checkpoint whose config names one.
    pub(crate) fn dtype_for(&self, named: Option<&str>) -> Dtype {
        match named.and_then(|name| name.parse().ok()) {
            Some(Dtype::Bf16) if self.is_cpu() => Dtype::Bf16,
            _ => self.default_dtype(),
        }
    }

    /// Whether models compute in host memory, with the kernels of these crates.
    pub(crate) fn is_cpu(&self) -> bool {
        matches!(self, Device::Cpu)
    }

    /// Bytes that are free on a device that can be opened; `None` where it is not reported.
    pub(crate) fn free_memory(&self) -> Option<u64> {
        match self {
            Device::Cpu => available_memory(),
            Device::Cuda(index) => cuda_free_memory(*index),
            Device::Wgpu | Device::Open(_) => None,
        }
    }

    /// Opens the device for models that compute in `dtype`.
    ///
    /// # Errors
    /// The errors of [`Device::open_for`].
    pub fn place(&self, dtype: Dtype) -> Result<Place> {
        let device = self.open_for(dtype)?;
        Ok(if self.is_cpu() { Place::Host(device) } else { Place::Device(device) })
    }

    /// Opens the device and tests it with a small sum.
    ///
    /// # Errors
    /// [`Error::Device`] if this build has no such backend, or the machine no such device.
    pub fn open(&self) -> Result<burn::tensor::Device> {
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        if !self.is_cpu() {
            super::gpu_runtime::prepare();
        }
        let device = match self {
            Device::Cpu => open_cpu(),
            Device::Wgpu => open_wgpu(),
            Device::Cuda(index) => open_cuda(*index),
            Device::Open(device) => Ok(device.clone()),
        }?;
        // burn reports a failing device with a panic; a small sum turns that into an error now.
        let sum = catch_unwind(AssertUnwindSafe(|| Tensor::<1>::ones([2], &device).sum().into_scalar::<f32>()));
        match sum {
            Ok(2.0) => Ok(device),
            Ok(other) => Err(Error::Device(format!("{self} computes 1 + 1 = {other}"))),
            Err(_) => Err(Error::Device(format!("{self} was found, but a first computation on it failed"))),
        }
    }

    /// Opens the device and checks that it computes in `dtype`.
    ///
    /// # Errors
    /// The errors of [`Device::open`]; [`Error::Device`] if the device lacks the number type.
    pub fn open_for(&self, dtype: Dtype) -> Result<burn::tensor::Device> {
        let device = self.open()?;
        if device.supports_dtype(DType::from(dtype)) {
            return Ok(device);
        }
        let known: Vec<&str> =
            Dtype::ALL.iter().filter(|d| device.supports_dtype(DType::from(**d))).map(|d| d.name()).collect();
        Err(Error::Device(format!("{self} does not compute in {dtype}; it offers {}", known.join(", "))))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Wgpu => f.write_str("wgpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
            Device::Open(device) => write!(f, "{device:?}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Device::Cpu),
            "wgpu" => Ok(Device::Wgpu),
            "cuda" => Ok(Device::Cuda(0)),
            other => match other.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
                Some(index) => Ok(Device::Cuda(index)),
                None => Err(Error::Device(format!("`{name}` is no device: expected cpu, wgpu, cuda or cuda:N"))),
            },
        }
    }
}

#[cfg(feature = "flex")]
fn open_cpu() -> Result<burn::tensor::Device> {
    Ok(burn::tensor::Device::flex())
}

#[cfg(not(feature = "flex"))]
fn open_cpu() -> Result<burn::tensor::Device> {
    Err(not_built("cpu", "flex"))
}

#[cfg(feature = "wgpu")]
fn open_wgpu() -> Result<burn::tensor::Device> {
    use std::sync::OnceLock;

    // A process can initialise the runtime once.
    static OPENED: OnceLock<std::result::Result<burn::tensor::Device, String>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        let init = || burn::tensor::Device::wgpu_options().init();
        match catch_unwind(init) {
            Ok(device) => device.map_err(|error| error.to_string()),
            Err(_) => Err("the graphics driver failed".to_owned()),
        }
    });
    opened.clone().map_err(|reason| Error::Device(format!("no device for wgpu on this machine: {reason}")))
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu() -> Result<burn::tensor::Device> {
    Err(not_built("wgpu", "wgpu"))
}

#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<burn::tensor::Device> {
    let found = cuda_devices();
    match index < found {
        true => Ok(burn::tensor::Device::cuda(index)),
        false => Err(Error::Device(format!(
            "there is no CUDA device {index} on this machine ({found} found): is an NVIDIA driver installed?"
        ))),
    }
}

/// Number of NVIDIA GPUs.
#[cfg(feature = "cuda")]
pub(super) fn cuda_devices() -> usize {
    use burn::tensor::{Device, DeviceType};

    catch_unwind(|| Device::enumerate(DeviceType::Cuda).into_vec().len()).unwrap_or(0)
}

#[cfg(feature = "cuda")]
fn cuda_free_memory(index: usize) -> Option<u64> {
    // Memory that dropped models left in burn's pool counts as taken until the pool returns it.
    let device = burn::tensor::Device::cuda(index);
    device.sync().ok()?;
    device.memory_cleanup();
    let context = cudarc::driver::CudaContext::new(index).ok()?;
    let (free, _) = context.mem_get_info().ok()?;
    Some(free as u64)
}

#[cfg(not(feature = "cuda"))]
fn cuda_free_memory(_: usize) -> Option<u64> {
    None
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_: usize) -> Result<burn::tensor::Device> {
    Err(not_built("cuda", "cuda"))
}

#[allow(dead_code)] // Unused in a build with every backend.
fn not_built(device: &str, feature: &str) -> Error {
    Error::Device(format!("this build has no {device} backend: build with `--features {feature}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_others_refused() {
        assert_eq!("cuda:3".parse::<Device>().unwrap(), Device::Cuda(3));
        assert_eq!("cpu".parse::<Device>().unwrap(), Device::Cpu);
        for name in ["gpu", "cuda:", "cuda:x", ""] {
            assert!(name.parse::<Device>().unwrap_err().to_string().contains("expected cpu"), "{name}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn an_absent_backend_is_an_error_that_names_the_feature() {
        let message = Device::cuda(0).open().unwrap_err().to_string();
        assert!(message.contains("--features cuda"), "{message}");
    }
}
