//! Merges adapters into the tensors of a checkpoint.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::change::{Change, Kind, Ready};
use super::{Adapter, Named, floats};
use crate::weights::buffer::Buffer;
use crate::{Checkpoint, CheckpointError, Dtype};

/// Rows of a matrix that are merged at a time.
const ROWS: usize = 256;

impl Checkpoint {
    /// Adds an adapter: from now on, tensors are read with it merged ([`Checkpoint::contents`]). Several adapters add up.
    ///
    /// `names` gives the names on disk that a name in the adapter may stand for, of which the first that is there is taken.
    ///
    /// # Errors
    /// [`CheckpointError::Adapter`] naming the tensor that belongs to nothing in the checkpoint, to a packed layer, or does not fit. The
    /// checkpoint is then as it was.
    pub fn add_adapter(
        &mut self,
        adapter: Adapter,
        names: impl Fn(&str) -> Vec<String>,
    ) -> Result<(), CheckpointError> {
        let adapter = Arc::new(adapter);
        let mut found: Vec<(String, Kind)> = Vec::new();
        let (mut replaced, mut added) = (BTreeSet::new(), BTreeSet::new());
        let twice = |key: &str, name: &str| {
            adapter.wrong(key, format!("changes `{name}`, which another tensor of this adapter changes, too"))
        };
        for (key, whole) in &adapter.whole {
            let name = self.replaced(&adapter, (key, whole), &names)?;
            if !replaced.insert(name.clone()) {
                return Err(twice(key, &name));
            }
            if !self.is_replaced_alike(&adapter, &name, whole)? {
                found.push((name, Kind::Replace(whole.clone())));
            }
        }
        for (module, factors) in &adapter.factors {
            let products = self.adapted(&adapter, (module, factors), &names)?;
            if let Some((name, _)) = products.iter().find(|(name, _)| !added.insert(name.clone())) {
                return Err(twice(module, name));
            }
            found.extend(products.into_iter().map(|(name, product)| (name, Kind::Add(product))));
        }
        tracing::debug!(adapter = %adapter.path.display(), changes = found.len(), "adapter added");
        for (name, kind) in found {
            self.changes.entry(name).or_default().push(Change { adapter: adapter.clone(), kind });
        }
        Ok(())
    }

    /// Whether another adapter has put the same values in place of a tensor: PEFT saves embeddings with an adapter that it has not
    /// changed.
    fn is_replaced_alike(&self, adapter: &Adapter, name: &str, whole: &Named) -> Result<bool, CheckpointError> {
        let Some((other, before)) = self.changes_of(name).find_map(Change::replacement) else { return Ok(false) };
        let is_same = before.dtype == whole.dtype && other.bytes(before) == adapter.bytes(whole);
        match is_same {
            true => Ok(true),
            false => {
                let (path, key) = (other.path.display(), &before.key);
                Err(adapter.wrong(&whole.key, format!("replaces `{name}`, and so does `{key}` in {path}")))
            }
        }
    }

    fn changes_of(&self, name: &str) -> impl Iterator<Item = &Change> {
        self.changes.get(name).into_iter().flatten()
    }

    /// Whether an adapter changes a tensor.
    pub(crate) fn is_adapted(&self, name: &str) -> bool {
        self.changes.contains_key(name)
    }

    /// The bytes of a tensor in the number type on disk, with all adapters merged. What no adapter changes stays in the file.
    ///
    /// Replacements come first; the products of all adapters are added in f32, and each value is rounded once.
    ///
    /// # Errors
    /// [`CheckpointError::NoWeights`] for a tensor that is not on disk; [`CheckpointError::Adapter`] if a merged value is not finite in
    /// the tensor's number type.
    pub fn contents(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        let tensor = self.tensors.get(name).ok_or_else(|| {
            let reason = format!("tensor `{name}` is not in the checkpoint");
            CheckpointError::NoWeights { path: self.directory.clone(), reason }
        })?;
        if !self.is_adapted(name) {
            return Ok(Cow::Borrowed(self.bytes(tensor)));
        }
        let dtype = tensor.float_type().ok_or_else(|| self.unreadable(name, tensor))?;
        let replaced = self.changes_of(name).find_map(Change::replacement);
        let base = replaced.map_or((self.bytes(tensor), dtype), |(adapter, whole)| (adapter.bytes(whole), whole.dtype));
        let products: Vec<Ready> = self.changes_of(name).filter_map(Change::ready).collect();
        let width = tensor.shape.iter().skip(1).product();
        let merged = merged(base, (dtype, width), &products);
        merged.map(Cow::Owned).map_err(|index| {
            let changed = self.changes[name].iter().map(|change| change.adapter.path.display().to_string());
            let (adapters, at) = (changed.collect::<Vec<_>>().join(" and "), &self.changes[name][0]);
            let reason = format!("makes value {index} of `{name}` infinite or NaN in {dtype}, with {adapters} merged");
            at.adapter.wrong(at.key(), reason)
        })
    }
}

/// A tensor of rows of `width` values with products added, in the number type `dtype`. The error is the index of a value that is not
/// finite.
fn merged(
    (base, stored): (&[u8], Dtype),
    (dtype, width): (Dtype, usize),
    products: &[Ready],
) -> Result<Vec<u8>, usize> {
    let mut merged = Vec::with_capacity(base.len() / stored.size() * dtype.size());
    for (piece, bytes) in base.chunks((ROWS * width * stored.size()).max(1)).enumerate() {
        let mut values = floats(bytes, stored);
        products.iter().for_each(|product| product.add(&mut values, piece * ROWS, width));
        let mut rounded = Buffer::new(dtype, values.len());
        rounded.extend_from_f32(&values);
        if let Some(at) = floats(rounded.as_bytes(), dtype).iter().position(|value| !value.is_finite()) {
            return Err(piece * ROWS * width + at);
        }
        merged.extend_from_slice(rounded.as_bytes());
    }
    Ok(merged)
}
