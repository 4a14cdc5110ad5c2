//! Names, shapes and number types on disk against those the config asks for, before any weight is read.

use std::collections::BTreeMap;

use crate::directory::{CONFIG, INDEX, Tensor};
use crate::manifest::{Component, Manifest, expected, is_linear};
use crate::packed_layer::{WORDS, members};
use crate::{Checkpoint, CheckpointError, Mismatch, TensorReport};

impl Checkpoint {
    /// The differences between disk and config, for the given parts. Tensors that belong to no part count as unexpected.
    ///
    /// The packed tensors of a linear layer stand for its `weight`.
    pub fn report(&self, components: &[Component]) -> TensorReport {
        self.report_against(expected(&self.config), components)
    }

    /// Compares the checkpoint with another list than the one of its own config; see [`Checkpoint::report`].
    pub fn report_against(&self, mut expected: Manifest, components: &[Component]) -> TensorReport {
        let wanted = |name: &str| Component::of(name).is_none_or(|c| components.contains(&c));
        expected.retain(|name, _| wanted(name));
        let mut found: BTreeMap<&str, &Tensor> = self.tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
        found.retain(|name, _| wanted(name));
        let mut report = TensorReport::default();
        for (name, shape) in expected {
            let tensors = if found.contains_key(name.as_str()) { None } else { self.packed_members(&name, &shape) };
            for (name, shape) in tensors.unwrap_or_else(|| vec![(name, shape)]) {
                match found.remove(name.as_str()) {
                    None => report.missing.push((name, shape)),
                    Some(tensor) if tensor.shape != shape => {
                        report.mismatched.push(Mismatch { name, expected: shape, found: tensor.shape.clone() });
                    }
                    Some(_) => {}
                }
            }
        }
        report.unexpected = found.into_iter().map(|(name, t)| (name.to_owned(), t.shape.clone())).collect();
        report
    }

    /// Compares names, shapes and number types with what the config asks for, for the given parts, before any weight is read.
    ///
    /// # Errors
    /// One [`CheckpointError::Tensors`] with every difference, [`CheckpointError::Dtype`], or [`CheckpointError::Packed`]
    /// for a packed layer that contradicts itself or `quantization_config`.
    pub fn check(&self, components: &[Component]) -> Result<(), CheckpointError> {
        let of_parts = |name: &str| Component::of(name).is_some_and(|c| components.contains(&c));
        self.config.check_parts(components, &self.directory.join(CONFIG))?;
        for (path, names) in &self.absent {
            if let Some(name) = names.iter().find(|name| of_parts(name)) {
                let count = names.len();
                let reason = format!("{INDEX} names this file for {count} tensors (`{name}`, …), but it is not there");
                return Err(CheckpointError::NoWeights { path: path.clone(), reason });
            }
        }
        for module in self.packed_modules().filter(|module| of_parts(module)) {
            self.scheme_on_disk(module)?;
        }
        let report = self.report(components);
        if !report.is_clean() {
            return Err(CheckpointError::Tensors { path: self.directory.clone(), report });
        }
        self.check_types(of_parts)
    }

    fn check_types(&self, of_parts: impl Fn(&str) -> bool) -> Result<(), CheckpointError> {
        let expected = expected(&self.config);
        for (name, tensor) in self.tensors.iter().filter(|(name, _)| of_parts(name)) {
            let packed = name.split_once(".weight_").filter(|(module, _)| self.is_packed(module));
            match packed.map(|(module, _)| (module, expected.get(&format!("{module}.weight")).map(Vec::as_slice))) {
                // Once per layer is enough.
                Some((module, Some([outputs, inputs]))) if name.ends_with(WORDS) => {
                    self.check_layer(module, [*outputs, *inputs])?;
                }
                Some(_) => {}
                None if tensor.float_type().is_none() => return Err(self.unreadable(name, tensor)),
                None => {}
            }
        }
        Ok(())
    }

    fn is_packed(&self, module: &str) -> bool {
        self.tensors.contains_key(&format!("{module}{WORDS}"))
    }

    /// The tensors that stand for a linear layer's `weight`, with their shapes, if the layer is packed.
    fn packed_members(&self, name: &str, shape: &[usize]) -> Option<Vec<(String, Vec<usize>)>> {
        let (module, [outputs, inputs]) = (name.strip_suffix(".weight")?, *shape.first_chunk::<2>()?);
        let packed = is_linear(name, shape) && self.is_packed(module);
        let scheme = self.quantization().filter(|_| packed)?.scheme_on_disk(module)?;
        let members = members(scheme, [outputs, inputs]).into_iter().map(|m| (m.name(module), m.optional, m.shape));
        let present = members.filter(|(name, optional, _)| !optional || self.tensors.contains_key(name));
        Some(present.map(|(name, _, shape)| (name, shape)).collect())
    }

    fn packed_modules(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().filter_map(|name| name.strip_suffix(WORDS))
    }

    pub(crate) fn unreadable(&self, name: &str, tensor: &Tensor) -> CheckpointError {
        self.wrong_type(name, tensor, "BF16, F16 or F32")
    }

    pub(crate) fn wrong_type(&self, name: &str, tensor: &Tensor, expected: &'static str) -> CheckpointError {
        let (path, dtype) = (self.path_of(tensor), format!("{:?}", tensor.dtype));
        CheckpointError::Dtype { name: name.to_owned(), path, dtype, expected }
    }
}
