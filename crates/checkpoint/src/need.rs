//! How much memory the weights take once they are loaded, from the headers alone.

use omni_core::{Dtype, PlaceKind};

use crate::directory::Tensor;
use crate::manifest::Component;
use crate::packed_layer::{PACKED_PARTS, WORDS};
use crate::{Checkpoint, Scheme};

/// Bytes that loaded weights take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryNeed {
    /// In the memory of the process, or of the device.
    pub held: u64,
    /// Read where they lie in the mapped files. Without room for them beside what is held they are read from disk again and again.
    pub mapped: u64,
}

impl MemoryNeed {
    /// Held and mapped together.
    pub fn total(&self) -> u64 {
        self.held + self.mapped
    }
}

impl Checkpoint {
    /// What the weights of some parts take when they are loaded as `dtype`; see [`crate::Weights`]. Activations and caches come on
    /// top.
    pub fn memory_need(&self, components: &[Component], place: PlaceKind, dtype: Dtype) -> MemoryNeed {
        let mut need = MemoryNeed::default();
        let wanted = |name: &str| Component::of(name).is_some_and(|component| components.contains(&component));
        for (name, tensor) in self.tensors.iter().filter(|(name, _)| wanted(name)) {
            match (name.strip_suffix(WORDS), place) {
                (Some(module), _) => self.add_packed(&mut need, module, place, dtype),
                // Counted with their words.
                (None, _) if self.is_part_of_packed(name) => {}
                (None, PlaceKind::Device) => need.held += elements(tensor) * dtype.size() as u64,
                (None, PlaceKind::Host) => add_on_cpu(&mut need, name, tensor, dtype),
            }
        }
        need
    }

    fn is_part_of_packed(&self, name: &str) -> bool {
        let module = PACKED_PARTS.iter().find_map(|part| name.strip_suffix(part));
        module.is_some_and(|module| self.tensors.contains_key(&format!("{module}{WORDS}")))
    }

    /// Words, scales and zero points; or plain numbers, if inputs are in an order that no product reads.
    fn add_packed(&self, need: &mut MemoryNeed, module: &str, place: PlaceKind, dtype: Dtype) {
        let part = |suffix: &str| self.tensors.get(&format!("{module}{suffix}"));
        let (Some(words), Some(scales)) = (part(WORDS), part(".weight_scale")) else { return };
        let count = elements(scales);
        let scheme = self.quantization().and_then(|config| config.scheme_on_disk(module));
        let values = scheme.map_or(0, |scheme| elements(words) * 32 / u64::from(scheme.bits));
        if scheme.is_some_and(|scheme| self.is_reordered(module, scheme)) {
            need.held += values * of_matrix(place, dtype);
            return;
        }
        let zeros = if part(".weight_zero_point").is_some() { count } else { 0 };
        match place {
            PlaceKind::Device => need.held += words.len() as u64 + (count + zeros) * dtype.size() as u64,
            PlaceKind::Host => {
                add_in_place(need, words, 4);
                match scales.float_type() {
                    Some(stored @ (Dtype::Bf16 | Dtype::F32)) => add_in_place(need, scales, stored.size()),
                    _ => need.held += count * 4,
                }
                need.held += zeros;
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

/// Bytes of a number of a matrix that cannot stay as it is.
pub(crate) fn of_matrix(place: PlaceKind, dtype: Dtype) -> u64 {
    match (place, dtype) {
        (PlaceKind::Host, Dtype::F16) => 4,
        _ => dtype.size() as u64,
    }
}

/// Whether the CPU keeps it as it is stored: matrices of layers, and embeddings. The rows of one table are mixed instead.
pub(crate) fn is_matrix(name: &str, shape: &[usize]) -> bool {
    shape.len() == 2 && name.ends_with(".weight") && !name.ends_with(".pos_embed.weight")
}

fn add_on_cpu(need: &mut MemoryNeed, name: &str, tensor: &Tensor, dtype: Dtype) {
    let is_matrix = is_matrix(name, &tensor.shape);
    match tensor.float_type() {
        Some(Dtype::Bf16) if is_matrix => add_in_place(need, tensor, 2),
        Some(Dtype::F32) if is_matrix && dtype != Dtype::Bf16 => add_in_place(need, tensor, 4),
        _ if is_matrix => need.held += elements(tensor) * of_matrix(PlaceKind::Host, dtype),
        _ => need.held += elements(tensor) * 4,
    }
}

/// Mapped, or copied if numbers of this size cannot be read at its place of the file.
fn add_in_place(need: &mut MemoryNeed, tensor: &Tensor, size: usize) {
    match tensor.starts_at_multiple_of(size) {
        true => need.mapped += tensor.len() as u64,
        false => need.held += tensor.len() as u64,
    }
}
