//! Estimates the memory of loaded weights from the headers alone.

use omni_core::{Dtype, PlaceKind};

use crate::packed_layer::WORDS;
use crate::shard::Tensor;
use crate::{Checkpoint, Expected, Manifest, Scheme, TensorKind};

/// Bytes of memory that loaded weights take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryEstimate {
    /// In the memory of the process or of the device.
    pub resident: u64,
    /// In mapped files, where they are read in place. Without room for them beside what is resident, they are read from disk again
    /// and again.
    pub mapped: u64,
}

impl MemoryEstimate {
    /// Resident and mapped together.
    pub fn total(&self) -> u64 {
        self.resident + self.mapped
    }
}

impl Checkpoint {
    /// Estimates the memory of the weights in `manifest` when they are loaded as `dtype`; see [`crate::Weights`]. Tensors that
    /// are not on disk count nothing. Activations and KV caches come on top.
    pub fn memory_estimate(&self, manifest: &Manifest, place: PlaceKind, dtype: Dtype) -> MemoryEstimate {
        let mut estimate = MemoryEstimate::default();
        for (name, expected) in manifest {
            let module = name.strip_suffix(".weight").filter(|_| expected.is_linear());
            let packed = module.filter(|module| self.tensors.contains_key(&format!("{module}{WORDS}")));
            match (packed, self.tensors.get(name), place) {
                (Some(module), ..) => self.add_packed(&mut estimate, module, place, dtype),
                (None, None, _) => {}
                (None, Some(tensor), PlaceKind::Device) => estimate.resident += elements(tensor) * dtype.size() as u64,
                (None, Some(tensor), PlaceKind::Host) => {
                    let mut own = MemoryEstimate::default();
                    add_on_cpu(&mut own, expected, tensor, dtype);
                    // What an adapter changes is in no file.
                    let mapped = if self.is_adapted(name) { 0 } else { own.mapped };
                    estimate.resident += own.total() - mapped;
                    estimate.mapped += mapped;
                }
            }
        }
        estimate
    }

    /// Adds words, scales and zero points; or the dequantised matrix, if its inputs are in an order that no kernel reads.
    fn add_packed(&self, estimate: &mut MemoryEstimate, module: &str, place: PlaceKind, dtype: Dtype) {
        let part = |suffix: &str| self.tensors.get(&format!("{module}{suffix}"));
        let (Some(words), Some(scales)) = (part(WORDS), part(".weight_scale")) else { return };
        let count = elements(scales);
        let scheme = self.quantization().and_then(|config| config.scheme_on_disk(module));
        let values = scheme.map_or(0, |scheme| elements(words) * 32 / u64::from(scheme.bits));
        if scheme.is_some_and(|scheme| self.is_reordered(module, scheme)) {
            estimate.resident += values * of_matrix(place, dtype);
            return;
        }
        let zeros = if part(".weight_zero_point").is_some() { count } else { 0 };
        match place {
            PlaceKind::Device => estimate.resident += words.len() as u64 + (count + zeros) * dtype.size() as u64,
            PlaceKind::Host => {
                add_in_place(estimate, words, 4);
                match scales.float_type() {
                    Some(stored @ (Dtype::Bf16 | Dtype::F32)) => add_in_place(estimate, scales, stored.size()),
                    _ => estimate.resident += count * 4,
                }
                estimate.resident += zeros;
            }
        }
    }

    fn is_reordered(&self, module: &str, scheme: &Scheme) -> bool {
        let inputs = self.tensors.get(&format!("{module}.weight_g_idx")).map(|order| order.shape.iter().product());
        let groups = |inputs: usize| (scheme.group_in(inputs), scheme.groups_in(inputs));
        let order = inputs.map(groups).and_then(|(group, groups)| self.order(module, group, groups).ok().flatten());
        order.is_some()
    }
}

fn elements(tensor: &Tensor) -> u64 {
    tensor.shape.iter().map(|size| *size as u64).product()
}

/// Bytes per number of a matrix that cannot stay as it is stored.
pub(crate) fn of_matrix(place: PlaceKind, dtype: Dtype) -> u64 {
    match (place, dtype) {
        (PlaceKind::Host, Dtype::F16) => 4,
        _ => dtype.size() as u64,
    }
}

/// Adds a tensor in host memory: matrices and tables stay as they are stored where the computation can read them so.
fn add_on_cpu(estimate: &mut MemoryEstimate, expected: &Expected, tensor: &Tensor, dtype: Dtype) {
    let stays = expected.kind != TensorKind::Values;
    match tensor.float_type() {
        Some(Dtype::Bf16) if stays => add_in_place(estimate, tensor, 2),
        Some(Dtype::F32) if stays && dtype != Dtype::Bf16 => add_in_place(estimate, tensor, 4),
        _ if stays => estimate.resident += elements(tensor) * of_matrix(PlaceKind::Host, dtype),
        _ => estimate.resident += elements(tensor) * 4,
    }
}

/// Adds a tensor that stays in its mapped file, or is copied if its offset is no multiple of `size`.
fn add_in_place(estimate: &mut MemoryEstimate, tensor: &Tensor, size: usize) {
    match tensor.starts_at_multiple_of(size) {
        true => estimate.mapped += tensor.len() as u64,
        false => estimate.resident += tensor.len() as u64,
    }
}
