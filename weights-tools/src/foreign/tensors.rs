//! The tensors of a checkpoint in a form that [`checkpoint`] does not open.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use omni_core::{Error, Result};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::source::weight_files;

/// The largest header that the format allows.
const HEADER: u64 = 100_000_000;

/// Shards whose headers have been read.
pub(super) struct Tensors(BTreeMap<String, Entry>);

struct Entry {
    file: PathBuf,
    dtype: Dtype,
    shape: Vec<usize>,
    start: u64,
    bytes: usize,
}

impl Tensors {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for name in weight_files(directory)?.into_keys() {
            let file = directory.join(name);
            for (name, entry) in entries(&file)? {
                if let Some(other) = tensors.insert(name.clone(), entry) {
                    return Err(damaged(&file, &format!("`{name}` is also in {}", other.file.display())));
                }
            }
        }
        Ok(Self(tensors))
    }

    pub(super) fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.0.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The number type of a tensor that is there.
    pub(super) fn dtype(&self, name: &str) -> Dtype {
        self.0[name].dtype
    }

    /// The bytes of a tensor.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let entry = self.0.get(name).ok_or_else(|| Error::weights(format!("tensor `{name}` is missing")))?;
        let mut bytes = vec![0; entry.bytes];
        File::open(&entry.file)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(entry.start))?;
                file.read_exact(&mut bytes)
            })
            .map_err(|source| Error::io(&entry.file, source))?;
        Ok(bytes)
    }

    /// The 32-bit integers of a tensor of this shape.
    pub(super) fn integers(&self, name: &str, shape: &[usize]) -> Result<Vec<i32>> {
        self.expect(name, shape)?;
        if self.dtype(name) != Dtype::I32 {
            return Err(Error::weights(format!(
                "tensor `{name}` has number type {:?}, expected I32",
                self.dtype(name)
            )));
        }
        Ok(self.read(name)?.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect())
    }

    /// Checks the shape of a tensor.
    pub(super) fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.shape(name) {
            Some(found) if found == shape => Ok(()),
            found => {
                let found = found.map_or_else(|| "missing".to_owned(), |found| format!("of shape {found:?}"));
                Err(Error::weights(format!("tensor `{name}` is {found}, expected {shape:?}")))
            }
        }
    }
}

fn entries(path: &Path) -> Result<Vec<(String, Entry)>> {
    let io = |source| Error::io(path, source);
    let mut file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(io)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER.min(size.saturating_sub(8)) {
        return Err(damaged(path, &format!("the header should have {length} bytes, but the file has {size}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(io)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| damaged(path, &error.to_string()).caused_by(error))?;
    let (data, promised) = (8 + length, metadata.data_len() as u64);
    if data + promised != size {
        let found = size - data;
        return Err(damaged(
            path,
            &format!("the header promises {promised} bytes of tensor data, the file has {found}"),
        ));
    }
    let entry = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let (start, end) = info.data_offsets;
        let (file, shape) = (path.to_owned(), info.shape.clone());
        (name, Entry { file, dtype: info.dtype, shape, start: data + start as u64, bytes: end - start })
    };
    Ok(metadata.tensors().into_iter().map(entry).collect())
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::weights(format!("{}: {reason}", path.display()))
}
