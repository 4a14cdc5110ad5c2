use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::adapter::Change;
use crate::config_file::{ConfigFile, read_json};
use crate::shard::{Shard, Tensor, map_shard};
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
                return Err(CheckpointError::Shard { path, reason, source: None });
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
                return Err(CheckpointError::Shard { path, reason, source: None });
            }
        }
        self.shards.push(Shard { path, map: Arc::new(map) });
        Ok(())
    }
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
        source: None,
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
