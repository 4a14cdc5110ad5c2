use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use omni_core::Dtype;
use safetensors::tensor::{SafeTensorError, SafeTensors, TensorInfo};

use crate::adapter::Change;
use crate::config_file::{ConfigFile, read_json};
use crate::stored::Bytes;
use crate::{CheckpointError, QuantizationConfig};

/// Limit on the number of tensors when only the config is available; the released checkpoint has 28,010.
pub const MOST_TENSORS: usize = 1 << 17;

const CONFIG: &str = "config.json";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// Marker file that a tool keeps in a checkpoint directory until everything is written.
pub const UNFINISHED: &str = "weights-tools.unfinished.json";

/// An opened checkpoint directory: config read, shards mapped, headers parsed; no weight read yet.
#[derive(Debug)]
pub struct Checkpoint {
    pub(crate) directory: PathBuf,
    config: ConfigFile,
    quantization: Option<QuantizationConfig>,
    shards: Vec<Shard>,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    /// Shards that the index names but that do not exist, with the tensors they should hold.
    pub(crate) absent: BTreeMap<PathBuf, Vec<String>>,
    /// What adapters change, by tensor.
    pub(crate) changes: BTreeMap<String, Vec<Change>>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Arc<Mmap>,
}

/// What a shard's header says about one tensor.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Number type as the header names it.
    pub dtype: safetensors::Dtype,
    /// Shape on disk.
    pub shape: Vec<usize>,
    shard: usize,
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

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a directory with `config.json` and either `model.safetensors.index.json` with its shards or one
    /// `model.safetensors`.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file (and key or tensor) that is missing or damaged.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let directory = directory.as_ref();
        if !directory.is_dir() {
            let reason =
                "there is no such directory; expected a checkpoint directory with config.json and safetensors".into();
            return Err(CheckpointError::NoWeights { path: directory.to_owned(), reason });
        }
        refuse_unfinished(directory)?;
        let config = ConfigFile::read(&directory.join(CONFIG))?;
        let mut checkpoint = Self {
            directory: directory.to_owned(),
            quantization: QuantizationConfig::of(&config)?,
            config,
            shards: vec![],
            tensors: BTreeMap::new(),
            absent: BTreeMap::new(),
            changes: BTreeMap::new(),
        };
        if directory.join(INDEX).is_file() {
            checkpoint.add_indexed(&directory.join(INDEX))?;
        } else if directory.join(SINGLE).is_file() {
            checkpoint.add_shard(directory.join(SINGLE))?;
        } else {
            let reason = format!("no weights here: expected {INDEX} or {SINGLE}");
            return Err(CheckpointError::NoWeights { path: directory.to_owned(), reason });
        }
        Ok(checkpoint)
    }

    /// Opens a file of tensors that lies beside the checkpoint's own and is none of them: with its config, but without its tensors, and
    /// not packed.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file, if it is missing or damaged.
    pub fn companion(&self, name: &str) -> Result<Self, CheckpointError> {
        let path = self.directory.join(name);
        let mut companion = Self {
            directory: path.clone(),
            quantization: None,
            config: self.config.clone(),
            shards: vec![],
            tensors: BTreeMap::new(),
            absent: BTreeMap::new(),
            changes: BTreeMap::new(),
        };
        companion.add_shard(path)?;
        Ok(companion)
    }

    /// The path of the directory, or of the file that was opened as a [`Checkpoint::companion`].
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `config.json`, of which each model reads its own section.
    pub fn config(&self) -> &ConfigFile {
        &self.config
    }

    /// Which layers are packed, and how; `None` if the checkpoint is not quantised.
    pub fn quantization(&self) -> Option<&QuantizationConfig> {
        self.quantization.as_ref()
    }

    /// Every tensor on disk, by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Limit on the number of tensors a config may ask for. Well above what the checkpoint has, so that missing tensors can still be
    /// listed.
    pub fn most_tensors(&self) -> usize {
        (4 * self.tensors.len()).max(MOST_TENSORS)
    }

    /// Number of shard files.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Shares the bytes of a tensor: the file stays mapped as long as they are held.
    pub(crate) fn shared(&self, tensor: &Tensor) -> Bytes {
        Bytes::mapped(self.shards[tensor.shard].map.clone(), tensor.bytes.clone())
    }

    /// The raw little-endian bytes of a tensor on disk, without adapters; see [`Checkpoint::contents`].
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        &self.shards[tensor.shard].map[tensor.bytes.clone()]
    }

    /// The path of the shard that holds a tensor.
    pub(crate) fn path_of(&self, tensor: &Tensor) -> PathBuf {
        self.shards[tensor.shard].path.clone()
    }

    fn add_indexed(&mut self, index: &Path) -> Result<(), CheckpointError> {
        let Index { weight_map } = read_json(index)?;
        let mut by_shard: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in &weight_map {
            by_shard.entry(shard).or_default().push(tensor);
        }
        for (shard, names) in by_shard {
            let path = self.directory.join(inside(shard).ok_or_else(|| outside(index, names[0], shard))?);
            if !path.is_file() {
                self.absent.insert(path, names.into_iter().map(str::to_owned).collect());
                continue;
            }
            self.add_shard(path.clone())?;
            let held = |name: &&str| self.tensors.get(*name).is_some_and(|t| t.shard + 1 == self.shards.len());
            if let Some(absent) = names.iter().find(|name| !held(name)) {
                let reason = format!("{INDEX} says that `{absent}` is in this file, but its header does not list it");
                return Err(CheckpointError::Shard { path, reason });
            }
        }
        Ok(())
    }

    fn add_shard(&mut self, path: PathBuf) -> Result<(), CheckpointError> {
        let (map, tensors) = map_shard(&path, self.shards.len())?;
        tracing::debug!(shard = %path.display(), tensors = tensors.len(), "header parsed");
        for (name, tensor) in tensors {
            if let Some(other) = self.tensors.insert(name.clone(), tensor) {
                let reason = format!("`{name}` is also in {}", self.shards[other.shard].path.display());
                return Err(CheckpointError::Shard { path, reason });
            }
        }
        self.shards.push(Shard { path, map: Arc::new(map) });
        Ok(())
    }
}

/// Maps a safetensors file and reads its header; `shard` is the index that its tensors are to have.
pub(crate) fn map_shard(path: &Path, shard: usize) -> Result<(Mmap, Vec<(String, Tensor)>), CheckpointError> {
    let map = map_file(path)?;
    let (header, metadata) = SafeTensors::read_metadata(&map)
        .map_err(|error| CheckpointError::Shard { path: path.to_owned(), reason: diagnose(&map, &error) })?;
    let start = header + 8;
    let tensor = |(name, info): (String, &TensorInfo)| {
        let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
        (name, Tensor { dtype: info.dtype, shape: info.shape.clone(), shard, bytes })
    };
    let tensors = metadata.tensors().into_iter().map(tensor).collect();
    Ok((map, tensors))
}

/// Returns the path if joining it cannot leave the directory. Symbolic links are followed: the hub's cache consists of them.
fn inside(shard: &str) -> Option<&Path> {
    let plain = |part: Component| matches!(part, Component::Normal(_));
    Some(Path::new(shard)).filter(|path| !shard.is_empty() && path.components().all(plain))
}

fn outside(index: &Path, tensor: &str, shard: &str) -> CheckpointError {
    CheckpointError::Json {
        path: index.to_owned(),
        at: format!("weight_map.{tensor}"),
        reason: format!("`{shard}` is no file of this directory"),
    }
}

/// Refuses a directory that a tool is still filling: it holds [`UNFINISHED`].
fn refuse_unfinished(directory: &Path) -> Result<(), CheckpointError> {
    if !directory.join(UNFINISHED).is_file() {
        return Ok(());
    }
    let reason = format!(
        "this checkpoint is half-written (there is a {UNFINISHED}); run the `weights-tools` command that was writing it \
         once more to resume, or with --restart to begin anew"
    );
    Err(CheckpointError::NoWeights { path: directory.to_owned(), reason })
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
