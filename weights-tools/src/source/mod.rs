//! A checkpoint that is read to be written in another form.

mod json_file;
mod weight_files;

use std::path::{Path, PathBuf};

use checkpoint::{Checkpoint, StoredTensor, UNFINISHED};
use half::{bf16, f16};
use omni_core::{Dtype, Error, Result};
use qwen3_omni::OmniCheckpoint;
use safetensors::Dtype as Stored;
use serde_json::{Map, Value, json};

use crate::shards::{LOCK, Sink};
pub(crate) use json_file::read_json;
use weight_files::states;
pub(crate) use weight_files::{adapter_states, weight_files};

/// Another version may write other bytes.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Bytes converted at a time.
const PIECE: usize = 1 << 22;

/// An opened checkpoint directory with the text of its config.
pub(crate) struct Source {
    pub(crate) checkpoint: OmniCheckpoint,
    pub(crate) config: Value,
    directory: PathBuf,
}

impl Source {
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let checkpoint = OmniCheckpoint::open(directory)?;
        Ok(Self { checkpoint, config: read_json(&directory.join("config.json"))?, directory: directory.to_owned() })
    }

    /// What the bytes that `command` makes of this source depend on.
    ///
    /// # Errors
    /// [`Error::Io`] naming the shard that cannot be read.
    pub(crate) fn identity(&self, command: &str, dtype: Option<Dtype>, shard_bytes: u64) -> Result<Map<String, Value>> {
        let tensors = self.checkpoint.tensors().iter().map(|(name, t)| format!("{name}{:?}{:?};", t.dtype, t.shape));
        let contents = [self.config.to_string(), tensors.collect()].concat();
        identity(&self.directory, &contents, command, dtype, shard_bytes)
    }

    /// The files beside the weights: tokenizer, templates, licence.
    pub(crate) fn companions(&self) -> Result<Vec<PathBuf>> {
        companions(&self.directory)
    }
}

/// What the bytes that `command` makes of a directory depend on; `contents` says what lies in it.
pub(crate) fn identity(
    directory: &Path,
    contents: &str,
    command: &str,
    dtype: Option<Dtype>,
    shard_bytes: u64,
) -> Result<Map<String, Value>> {
    let place = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let entries = [
        ("command", json!(command)),
        ("version", json!(VERSION)),
        ("source", json!(place)),
        ("contents", json!(fingerprint(contents))),
        ("weights", states(directory)?),
        ("dtype", json!(dtype.map(Dtype::name))),
        ("shard_bytes", json!(shard_bytes)),
    ];
    Ok(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// The files beside the weights of a directory.
pub(crate) fn companions(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).map_err(|source| Error::io(directory, source))?;
    let kept = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ours = ["config.json", UNFINISHED, LOCK].contains(&&*name) || name.ends_with(".partial");
        path.is_file() && !name.contains(".safetensors") && !ours
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(kept).collect();
    files.sort();
    Ok(files)
}

/// A short number that changes with the text (FNV-1a).
pub(crate) fn fingerprint(text: &str) -> String {
    format!("{:016x}", hash(text))
}

pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

pub(crate) fn stored_type(dtype: Dtype) -> Stored {
    match dtype {
        Dtype::F32 => Stored::F32,
        Dtype::Bf16 => Stored::BF16,
        Dtype::F16 => Stored::F16,
    }
}

/// Names the number type in a config, at the top and wherever a part of the model has its own.
pub(crate) fn set_dtype(config: &mut Value, dtype: Dtype) {
    let long = match dtype {
        Dtype::F32 => "float32",
        Dtype::Bf16 => "bfloat16",
        Dtype::F16 => "float16",
    };
    replace_dtype(config, long);
    if config.get("torch_dtype").is_none() {
        config["dtype"] = json!(long);
    }
}

fn replace_dtype(part: &mut Value, long: &str) {
    for (key, value) in part.as_object_mut().into_iter().flatten() {
        match key.as_str() {
            "dtype" | "torch_dtype" if value.is_string() => *value = json!(long),
            _ => replace_dtype(value, long),
        }
    }
}

/// Removes a key from every part of a config.
pub(crate) fn remove_key(part: &mut Value, key: &str) {
    if let Some(object) = part.as_object_mut() {
        object.shift_remove(key);
        object.values_mut().for_each(|value| remove_key(value, key));
    }
}

pub(crate) fn float_type(name: &str, tensor: &StoredTensor) -> Result<Dtype> {
    float_of(name, tensor.dtype)
}

/// The number type of a tensor that models compute in.
pub(crate) fn float_of(name: &str, dtype: Stored) -> Result<Dtype> {
    match dtype {
        Stored::F32 => Ok(Dtype::F32),
        Stored::BF16 => Ok(Dtype::Bf16),
        Stored::F16 => Ok(Dtype::F16),
        other => Err(Error::weights(format!("tensor `{name}` has number type {other:?}, expected F32, BF16 or F16"))),
    }
}

/// Little-endian numbers of a type, as f32.
pub(crate) fn floats(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let (fours, twos) = (bytes.as_chunks::<4>().0, bytes.as_chunks::<2>().0);
    match dtype {
        Dtype::F32 => fours.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::Bf16 => twos.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::F16 => twos.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
    }
}

/// Numbers as little-endian bytes of a type.
pub(crate) fn to_bytes(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.size()];
    match dtype {
        Dtype::F32 => fill(&mut bytes, values, f32::to_le_bytes),
        Dtype::Bf16 => fill(&mut bytes, values, |value| bf16::from_f32(value).to_le_bytes()),
        Dtype::F16 => fill(&mut bytes, values, |value| f16::from_f32(value).to_le_bytes()),
    }
    bytes
}

fn fill<const N: usize>(bytes: &mut [u8], values: &[f32], convert: impl Fn(f32) -> [u8; N]) {
    bytes.as_chunks_mut::<N>().0.iter_mut().zip(values).for_each(|(bytes, value)| *bytes = convert(*value));
}

/// Writes a tensor as the first of its unit, in another number type.
pub(crate) fn write_converted(checkpoint: &Checkpoint, name: &str, dtype: Dtype, sink: &mut Sink<'_>) -> Result<()> {
    let from = float_type(name, &checkpoint.tensors()[name])?;
    for bytes in checkpoint.contents(name)?.chunks(PIECE) {
        match from == dtype {
            true => sink.write(0, bytes)?,
            false => write_floats(name, &floats(bytes, from), dtype, sink)?,
        }
    }
    Ok(())
}

/// Appends numbers to the first tensor of a unit.
pub(crate) fn write_floats(name: &str, values: &[f32], dtype: Dtype, sink: &mut Sink<'_>) -> Result<()> {
    let too_large = |value: &&f32| dtype == Dtype::F16 && value.is_finite() && f16::from_f32(**value).is_infinite();
    match values.iter().find(too_large) {
        Some(value) => {
            Err(Error::weights(format!("tensor `{name}`: {value} is too large for f16; choose bf16 or f32")))
        }
        None => sink.write(0, &to_bytes(values, dtype)),
    }
}
