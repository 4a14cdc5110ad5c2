//! A safetensors file: mapped, its header read, and what is wrong with one that cannot be.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use omni_core::Dtype;
use safetensors::tensor::{SafeTensorError, SafeTensors, TensorInfo};

use crate::CheckpointError;

#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    pub(crate) map: Arc<Mmap>,
}

/// What a shard's header says about one tensor.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Number type as the header names it.
    pub dtype: safetensors::Dtype,
    /// Shape on disk.
    pub shape: Vec<usize>,
    pub(crate) shard: usize,
    pub(crate) bytes: Range<usize>,
}

impl Tensor {
    /// The number type; `None` if it is not one that models compute in.
    pub fn float_type(&self) -> Option<Dtype> {
        match self.dtype {
            safetensors::Dtype::F32 => Some(Dtype::F32),
            safetensors::Dtype::BF16 => Some(Dtype::Bf16),
            safetensors::Dtype::F16 => Some(Dtype::F16),
            _ => None,
        }
    }

    /// Whether the tensor begins at a multiple of `size` bytes in its file.
    pub(crate) fn starts_at_multiple_of(&self, size: usize) -> bool {
        self.bytes.start.is_multiple_of(size)
    }

    /// Bytes on disk.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Maps a safetensors file and reads its header; `shard` is the index that its tensors are to have.
pub(crate) fn map_shard(path: &Path, shard: usize) -> Result<(Mmap, Vec<(String, Tensor)>), CheckpointError> {
    let map = map_file(path)?;
    let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| CheckpointError::Shard {
        path: path.to_owned(),
        reason: diagnose(&map, &error),
        source: Some(error),
    })?;
    let start = header + 8;
    let tensor = |(name, info): (String, &TensorInfo)| {
        let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
        (name, Tensor { dtype: info.dtype, shape: info.shape.clone(), shard, bytes })
    };
    let tensors = metadata.tensors().into_iter().map(tensor).collect();
    Ok((map, tensors))
}

fn map_file(path: &Path) -> Result<Mmap, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the map is only read, as plain bytes. Another process that truncates the file while it is mapped ends
    // this one with a signal; that is the known price of mapping and is documented on `Checkpoint`'s users' side.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    // Weights are read from one end to the other again and again: a good third faster where the operating system keeps the file in
    // huge pages. It works without them.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

/// First bytes of a Git LFS pointer file.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Describes what is wrong with a shard, with the numbers that contradict each other.
fn diagnose(file: &[u8], error: &SafeTensorError) -> String {
    let promised = file.first_chunk::<8>().map(|n| u64::from_le_bytes(*n));
    let header = promised.and_then(|n| file.get(8..8usize.checked_add(usize::try_from(n).ok()?)?));
    if file.starts_with(LFS_POINTER) {
        return "this is a Git LFS pointer, not the weights: fetch them with `git lfs pull`".into();
    }
    match (error, promised, header) {
        (SafeTensorError::HeaderTooSmall, ..) => {
            format!("the file has {} bytes, too few for a safetensors header: truncated?", file.len())
        }
        (_, Some(n), None) => format!(
            "the header should have {n} bytes, but the file has {} in all: truncated, or not a safetensors file",
            file.len()
        ),
        (SafeTensorError::MetadataIncompleteBuffer, _, Some(header)) => {
            let (expected, found) = (data_end(header), file.len() - 8 - header.len());
            format!("the header promises {expected} bytes of tensor data, the file has {found}: truncated or damaged")
        }
        (SafeTensorError::InvalidHeaderDeserialization(json), _, Some(header)) => match unknown_type(header) {
            Some((name, dtype)) => {
                format!("tensor `{name}` has the unknown number type `{dtype}`; expected BF16, F16 or F32")
            }
            None => format!("the header is not what safetensors prescribes: {json}"),
        },
        (SafeTensorError::InvalidOffset(name), _, Some(header)) if wrong_extent(header).is_none() => {
            format!("the header's offsets for tensor `{name}` overlap or leave a gap: damaged")
        }
        (SafeTensorError::InvalidOffset(_) | SafeTensorError::TensorInvalidInfo, _, Some(header)) => {
            let name = wrong_extent(header).unwrap_or_else(|| "?".into());
            format!("the header's offsets for tensor `{name}` do not fit its shape and number type: damaged")
        }
        _ => format!("the header is damaged: {error}"),
    }
}

fn entries(header: &[u8]) -> serde_json::Map<String, serde_json::Value> {
    let mut entries: serde_json::Map<_, _> = serde_json::from_slice(header).unwrap_or_default();
    entries.remove("__metadata__");
    entries
}

fn data_end(header: &[u8]) -> u64 {
    entries(header).values().filter_map(|entry| entry["data_offsets"][1].as_u64()).max().unwrap_or(0)
}

fn unknown_type(header: &[u8]) -> Option<(String, String)> {
    entries(header).into_iter().find_map(|(name, entry)| {
        let dtype = entry["dtype"].as_str()?.to_owned();
        let known = serde_json::from_value::<safetensors::Dtype>(entry["dtype"].clone()).is_ok();
        (!known).then_some((name, dtype))
    })
}

fn wrong_extent(header: &[u8]) -> Option<String> {
    entries(header).into_iter().find_map(|(name, entry)| {
        let info: TensorInfo = serde_json::from_value(entry).ok()?;
        let elements = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize()));
        let held = info.data_offsets.1.checked_sub(info.data_offsets.0).and_then(|n| n.checked_mul(8));
        (bits.is_none() || bits != held).then_some(name)
    })
}
