//! Files of a training run.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::changes::{Change, Changes};
use crate::{Error, Result};

/// Names the file of a failed operation.
pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| omni_core::Error::io(path, source).into()
}

/// Writes flattened f32 tensors under their names and waits until they are on disk.
pub(super) fn write_tensors(path: &Path, tensors: &BTreeMap<String, Vec<f32>>) -> Result<()> {
    let bytes: BTreeMap<&String, Vec<u8>> = tensors.iter().map(|(name, values)| (name, to_bytes(values))).collect();
    let views = bytes.iter().map(|(name, bytes)| Ok((*name, view(Dtype::F32, &[bytes.len() / 4], bytes, path)?)));
    write_views(path, views.collect::<Result<_>>()?)
}

/// PEFT's names of an adapter's files.
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(super) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// Writes an adapter's factors and its settings, in PEFT's file names.
pub(crate) fn write_adapter_files(
    folder: &Path,
    factors: &BTreeMap<String, ([usize; 2], &[f32])>,
    config: &serde_json::Value,
) -> Result<()> {
    write_json(&folder.join(ADAPTER_CONFIG), config)?;
    write_shaped(&folder.join(ADAPTER_WEIGHTS), factors)
}

/// Writes f32 tensors with their shapes and waits until they are on disk. A file that is there already is replaced, not written into:
/// it may be a link to that of another checkpoint.
pub(crate) fn write_shaped<S: AsRef<[usize]>, V: AsRef<[f32]>>(
    path: &Path,
    tensors: &BTreeMap<String, (S, V)>,
) -> Result<()> {
    if path.exists() {
        std::fs::remove_file(path).map_err(io(path))?;
    }
    let bytes: BTreeMap<_, _> =
        tensors.iter().map(|(name, (shape, values))| (name, (shape.as_ref(), to_bytes(values.as_ref())))).collect();
    let views = bytes.iter().map(|(name, (shape, bytes))| Ok((*name, view(Dtype::F32, shape, bytes, path)?)));
    write_views(path, views.collect::<Result<_>>()?)
}

/// Writes a JSON file and waits until it is on disk.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let json = serde_json::to_vec_pretty(value).map_err(|error| unreadable(path, error))?;
    std::fs::write(path, json).map_err(io(path))?;
    sync(path)
}

/// Reads tensors written by [`write_tensors`].
pub(crate) fn read_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor<1>>> {
    let bytes = std::fs::read(path).map_err(io(path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| unreadable(path, error))?;
    let tensors = file.tensors().into_iter().map(|(name, view)| match view.dtype() {
        Dtype::F32 => {
            let values = to_f32(view.data(), Dtype::F32).unwrap_or_default();
            let count = values.len();
            Ok((name, Tensor::from_data(TensorData::new(values, [count]), device)))
        }
        other => Err(damaged(path, format!("tensor `{name}` is {other:?}, expected F32"))),
    });
    tensors.collect()
}

/// Copies a shard with some of its tensors changed, each in the number type it had. Returns whether any was; if none was, nothing is
/// written.
pub(super) fn rewrite_shard(source: &Path, target: &Path, changes: &Changes) -> Result<bool> {
    let bytes = std::fs::read(source).map_err(io(source))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| unreadable(source, error))?;
    if !file.names().iter().any(|name| changes.contains_key(*name)) {
        return Ok(false);
    }
    let mut changed = BTreeMap::new();
    for (name, stored) in file.tensors() {
        if let Some(changes) = changes.get(&name) {
            let refuse = |what: &dyn std::fmt::Display| {
                let (shape, dtype) = (stored.shape(), stored.dtype());
                damaged(source, format!("tensor `{name}` {shape:?} in {dtype:?} cannot take {what}"))
            };
            let bytes = changed_bytes(&stored, changes, &refuse)?;
            changed.insert(name, bytes);
        }
    }
    let views = file.tensors().into_iter().map(|(name, stored)| match changed.get(&name) {
        Some(bytes) => Ok((name, view(stored.dtype(), stored.shape(), bytes, target)?)),
        None => Ok((name, stored)),
    });
    write_views(target, views.collect::<Result<Vec<_>>>()?)?;
    Ok(true)
}

/// A tensor's bytes behind its changes; `refuse` makes an error of what it cannot take.
fn changed_bytes(
    stored: &TensorView,
    changes: &[Change],
    refuse: &dyn Fn(&dyn std::fmt::Display) -> Error,
) -> Result<Vec<u8>> {
    let mut values = to_f32(stored.data(), stored.dtype()).ok_or_else(|| refuse(&"trained values"))?;
    match changes.iter().find(|change| !change.apply(&mut values)) {
        Some(misfit) => Err(refuse(misfit)),
        None => as_dtype(&values, stored.dtype()).ok_or_else(|| refuse(&"trained values")),
    }
}

fn view<'a>(dtype: Dtype, shape: &[usize], bytes: &'a [u8], path: &Path) -> Result<TensorView<'a>> {
    TensorView::new(dtype, shape.to_vec(), bytes).map_err(|error| unreadable(path, error))
}

fn write_views<N: AsRef<str> + Ord + std::fmt::Display>(path: &Path, views: Vec<(N, TensorView)>) -> Result<()> {
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    safetensors::serialize_to_file(views, metadata, path).map_err(|error| unreadable(path, error))?;
    sync(path)
}

/// Waits until a file or directory is on disk.
pub(super) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io(path))
}

fn as_dtype(values: &[f32], dtype: Dtype) -> Option<Vec<u8>> {
    match dtype {
        Dtype::F32 => Some(to_bytes(values)),
        Dtype::BF16 => Some(values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()),
        Dtype::F16 => Some(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()),
        _ => None,
    }
}

fn to_f32(bytes: &[u8], dtype: Dtype) -> Option<Vec<f32>> {
    let twos = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F32 => Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::BF16 => Some(twos().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        Dtype::F16 => Some(twos().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        _ => None,
    }
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The error of a file that a parser refuses, or of values that it cannot write.
pub(crate) fn unreadable(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    omni_core::Error::weights(format!("{}: {error}", path.display())).caused_by(error).into()
}

pub(crate) fn damaged(path: &Path, reason: impl std::fmt::Display) -> Error {
    omni_core::Error::weights(format!("{}: {reason}", path.display())).into()
}
