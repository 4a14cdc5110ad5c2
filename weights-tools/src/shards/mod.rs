//! Writes checkpoint directories shard by shard, so that an interrupted job can be resumed.
//!
//! A shard is written beside its final name and renamed when it is whole. Notes in the directory say what was asked for
//! and which shards are whole; they make the directory unloadable until the index, which comes last, is written.

mod layout;
mod state;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use checkpoint::UNFINISHED;
use omni_core::{Error, Result};
use serde_json::{Map, Value, json};

use crate::quantize::TensorError;
use layout::{Layout, split};
pub use layout::{OutTensor, Unit, natural};
use state::{State, partial, replace};

const INDEX: &str = "model.safetensors.index.json";

/// How far writing has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of weights written.
    pub bytes: u64,
    /// Bytes of weights to write.
    pub total: u64,
}

/// A checkpoint directory to be written.
pub struct Job<'a> {
    /// The directory.
    pub out: &'a Path,
    /// Everything the bytes depend on; a half-written directory is only resumed by the same job.
    pub identity: Map<String, Value>,
    /// What the shards hold, in order.
    pub units: Vec<Unit>,
    /// Bytes after which a new shard is begun.
    pub shard_bytes: u64,
    /// The new `config.json`.
    pub config: Value,
    /// Files to be copied beside it.
    pub companions: Vec<PathBuf>,
    /// Start over if another job has left the directory half-written.
    pub restart: bool,
}

/// Takes the bytes of one unit's tensors.
pub struct Sink<'a> {
    file: &'a mut File,
    path: &'a Path,
    /// Where each tensor's next bytes go, and where it ends.
    at: Vec<(u64, u64)>,
    written: &'a mut dyn FnMut(u64) -> Result<()>,
}

impl Sink<'_> {
    /// Appends bytes to a tensor of the unit.
    ///
    /// # Errors
    /// [`Error::Io`] if the file system refuses, or what the progress callback returns.
    ///
    /// # Panics
    /// If these are more bytes than the tensor has.
    pub fn write(&mut self, tensor: usize, bytes: &[u8]) -> Result<()> {
        let (at, end) = self.at[tensor];
        let next = at + bytes.len() as u64;
        assert!(next <= end, "a tensor of the unit gets {} bytes too many", next - end);
        let place = SeekFrom::Start(at);
        let io = |source| Error::io(self.path, source);
        self.file.seek(place).and_then(|_| self.file.write_all(bytes)).map_err(io)?;
        self.at[tensor].0 = next;
        (self.written)(bytes.len() as u64)
    }
}

/// Writes the directory, or what is left of it. Returns what `produce` returned for each unit.
///
/// # Errors
/// [`Error::Request`] for a directory that holds a checkpoint or one that another job has begun; [`Error::Io`] naming the
/// file that cannot be written; whatever `produce` or `progress` return. The same job can then be resumed.
pub fn write(
    job: &Job<'_>,
    mut produce: impl FnMut(&Unit, &mut Sink<'_>) -> Result<Option<TensorError>>,
    mut progress: impl FnMut(Progress) -> Result<()>,
) -> Result<Vec<TensorError>> {
    let mut state = State::open(job.out, &job.identity, job.restart)?;
    state.save(job.out)?;
    let shards = split(&job.units, job.shard_bytes);
    let mut done = Progress { bytes: 0, total: job.units.iter().map(Unit::bytes).sum() };
    for (index, units) in shards.iter().enumerate() {
        let name = shard_name(index, shards.len());
        let (path, layout) = (job.out.join(&name), Layout::of(units));
        if state.finished.contains_key(&name) && is_whole(&path, &layout) {
            done.bytes += units.iter().map(Unit::bytes).sum::<u64>();
            progress(done)?;
            continue;
        }
        let errors = write_shard(&path, units, &layout, &mut produce, &mut |bytes| {
            done.bytes += bytes;
            progress(done)
        })?;
        state.finished.insert(name, errors);
        state.save(job.out)?;
    }
    finish(job, &shards)?;
    Ok(state.finished.into_values().flatten().collect())
}

fn shard_name(index: usize, of: usize) -> String {
    format!("model-{:05}-of-{of:05}.safetensors", index + 1)
}

/// Whether the file has the size and the header it should have.
fn is_whole(path: &Path, layout: &Layout) -> bool {
    let mut header = vec![0; layout.header.len()];
    let read = File::open(path).and_then(|mut file| {
        file.read_exact(&mut header)?;
        file.metadata()
    });
    read.is_ok_and(|metadata| metadata.len() == layout.size && header == layout.header)
}

fn write_shard(
    path: &Path,
    units: &[Unit],
    layout: &Layout,
    produce: &mut impl FnMut(&Unit, &mut Sink<'_>) -> Result<Option<TensorError>>,
    written: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<TensorError>> {
    let partial = partial(path);
    let io = |source| Error::io(&partial, source);
    let mut file = File::create(&partial).map_err(io)?;
    file.write_all(&layout.header).map_err(io)?;
    let mut errors = Vec::new();
    for (unit, starts) in units.iter().zip(&layout.starts) {
        let at: Vec<(u64, u64)> = starts.iter().zip(&unit.tensors).map(|(s, t)| (*s, s + t.bytes())).collect();
        let mut sink = Sink { file: &mut file, path: &partial, at, written };
        errors.extend(produce(unit, &mut sink)?);
        assert!(sink.at.iter().all(|(at, end)| at == end), "{} was not written whole", unit.tensors[0].name);
    }
    file.sync_all().map_err(io)?;
    drop(file);
    std::fs::rename(&partial, path).map_err(|source| Error::io(path, source))?;
    Ok(errors)
}

/// Writes a directory with a config and the files beside it, but no weights.
///
/// # Errors
/// The errors of [`write`].
pub fn write_directory(out: &Path, companions: &[PathBuf], config: &Value) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|source| Error::io(out, source))?;
    state::refuse_occupied(out)?;
    write_beside(out, companions, config)
}

/// Writes companions and config.
fn write_beside(out: &Path, companions: &[PathBuf], config: &Value) -> Result<()> {
    for file in companions {
        let target = out.join(file.file_name().unwrap_or_default());
        if !target.exists() {
            let bytes = std::fs::read(file).map_err(|source| Error::io(file, source))?;
            replace(&target, &bytes)?;
        }
    }
    write_json(&out.join("config.json"), config)
}

/// Writes companions, config, and at last the index: only then is the directory a checkpoint.
fn finish(job: &Job<'_>, shards: &[&[Unit]]) -> Result<()> {
    write_beside(job.out, &job.companions, &job.config)?;
    let mut weight_map = Map::new();
    for (index, units) in shards.iter().enumerate() {
        let names = units.iter().flat_map(|unit| &unit.tensors).map(|tensor| tensor.name.clone());
        weight_map.extend(names.map(|name| (name, json!(shard_name(index, shards.len())))));
    }
    weight_map.sort_keys();
    let total: u64 = job.units.iter().map(Unit::bytes).sum();
    write_json(&job.out.join(INDEX), &json!({"metadata": {"total_size": total}, "weight_map": weight_map}))?;
    let notes = job.out.join(UNFINISHED);
    std::fs::remove_file(&notes).map_err(|source| Error::io(notes, source))
}

fn write_json(path: &Path, json: &Value) -> Result<()> {
    replace(path, serde_json::to_string_pretty(json).expect("JSON values can be written").as_bytes())
}
