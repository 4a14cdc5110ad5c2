//! Compares names, shapes and number types on disk with those the config asks for, before any weight is read.

use std::collections::BTreeMap;

use crate::directory::INDEX;
use crate::packed_layer::{WORDS, members};
use crate::shard::Tensor;
use crate::{Checkpoint, CheckpointError, Expected, Manifest, Mismatch, TensorReport};

impl Checkpoint {
    /// Lists the differences between `manifest` and the tensors on disk whose names are `in_scope`.
    ///
    /// The packed tensors of a linear layer stand for its `weight`.
    pub fn report(&self, manifest: &Manifest, in_scope: impl Fn(&str) -> bool) -> TensorReport {
        let mut found: BTreeMap<&str, &Tensor> = self.tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
        found.retain(|name, _| in_scope(name));
        let mut report = TensorReport::default();
        for (name, expected) in manifest {
            let tensors = if found.contains_key(name.as_str()) { None } else { self.packed_members(name, expected) };
            for (name, shape) in tensors.unwrap_or_else(|| vec![(name.clone(), expected.shape.clone())]) {
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

    /// Compares names, shapes and number types on disk with `manifest`, before any weight is read; `in_scope` decides by a
    /// tensor's name whether it is compared. Tensors that nothing asks for are left alone, with a warning that names them, as the
    /// reference does: checkpoints carry buffers that no model reads.
    ///
    /// # Errors
    /// One [`CheckpointError::Tensors`] with every difference, [`CheckpointError::Dtype`], or [`CheckpointError::Packed`]
    /// for a packed layer that contradicts itself or `quantization_config`.
    pub fn check(&self, manifest: &Manifest, in_scope: impl Fn(&str) -> bool) -> Result<(), CheckpointError> {
        for (path, names) in &self.absent {
            if let Some(name) = names.iter().find(|name| in_scope(name)) {
                let count = names.len();
                let reason = format!("{INDEX} names this file for {count} tensors (`{name}`, …), but it is not there");
                return Err(CheckpointError::NoWeights { path: path.clone(), reason });
            }
        }
        for module in self.packed_modules().filter(|module| in_scope(module)) {
            self.scheme_on_disk(module)?;
        }
        let report = self.report(manifest, &in_scope);
        if !report.is_sufficient() {
            return Err(CheckpointError::Tensors { path: self.directory.clone(), report });
        }
        if !report.unexpected.is_empty() {
            tracing::warn!("{}: {}", self.directory.display(), report.unused());
        }
        let unused = |name: &str| report.unexpected.binary_search_by(|(unused, _)| unused.as_str().cmp(name)).is_ok();
        self.check_types(manifest, |name| in_scope(name) && !unused(name))
    }

    fn check_types(&self, manifest: &Manifest, in_scope: impl Fn(&str) -> bool) -> Result<(), CheckpointError> {
        for (name, tensor) in self.tensors.iter().filter(|(name, _)| in_scope(name)) {
            let packed = name.split_once(".weight_").filter(|(module, _)| self.is_packed(module));
            match packed
                .map(|(module, _)| (module, manifest.get(&format!("{module}.weight")).map(|e| e.shape.as_slice())))
            {
                // One check per layer is enough.
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

    /// The tensors that stand for the `weight` of a packed linear layer, with their shapes; `None` if the layer is not packed.
    fn packed_members(&self, name: &str, expected: &Expected) -> Option<Vec<(String, Vec<usize>)>> {
        let (module, [outputs, inputs]) = (name.strip_suffix(".weight")?, *expected.shape.first_chunk::<2>()?);
        let packed = expected.is_linear() && self.is_packed(module);
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
