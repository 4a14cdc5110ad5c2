//! Writes checkpoint directories shard by shard, so that an interrupted job can be resumed.
//!
//! A shard is written beside its final name and renamed when it is whole. Notes in the directory say what was asked for, which
//! files belong to it and which shards are whole; they make the directory unloadable until the index, which comes last, is
//! written. A lock keeps a second job out.

mod layout;
mod lock;
mod state;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use checkpoint::UNFINISHED;
use crc32fast::Hasher;
use omni_core::{Error, Result};
use serde_json::{Map, Value, json};

use crate::new_file::{NewFile, replace, sync_directory};
use crate::quantize::error::TensorError;
use layout::{Layout, split};
pub use layout::{OutTensor, Unit, natural};
pub(crate) use lock::LOCK;
use lock::Lock;
use state::{Finished, State, refuse_foreign};

pub(crate) const INDEX: &str = "model.safetensors.index.json";
const CONFIG: &str = "config.json";

/// Bytes of a shard that are checked at a time.
const PIECE: usize = 1 << 22;

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
    file: &'a mut NewFile,
    /// Where each tensor's next bytes go, where it ends, and the checksum of what came before.
    at: Vec<(u64, u64, Hasher)>,
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
        let (at, end, checksum) = &mut self.at[tensor];
        let next = *at + bytes.len() as u64;
        assert!(next <= *end, "a tensor of the unit gets {} bytes too many", next - *end);
        self.file.write_at(*at, bytes)?;
        checksum.update(bytes);
        *at = next;
        (self.written)(bytes.len() as u64)
    }
}

/// Writes the directory, or what is left of it. Returns what `produce` returned for each unit.
///
/// # Errors
/// [`Error::Request`] for a directory that holds other files, that another job has begun, or that another process is writing;
/// [`Error::Io`] naming the file that cannot be written; whatever `produce` or `progress` return. The same job can then be
/// resumed.
pub fn write(
    job: &Job<'_>,
    mut produce: impl FnMut(&Unit, &mut Sink<'_>) -> Result<Option<TensorError>>,
    mut progress: impl FnMut(Progress) -> Result<()>,
) -> Result<Vec<TensorError>> {
    let shards = split(&job.units, job.shard_bytes);
    let names: Vec<String> = (0..shards.len()).map(|index| shard_name(index, shards.len())).collect();
    let (_lock, mut state) = open(job, &names)?;
    let mut done = Progress { bytes: 0, total: job.units.iter().map(Unit::bytes).sum() };
    for (units, name) in shards.iter().zip(&names) {
        let (path, layout) = (job.out.join(name), Layout::of(units));
        let before = done.bytes;
        let mut count = |bytes| {
            done.bytes += bytes;
            progress(done)
        };
        if let Some(finished) = state.finished.get(name) {
            if is_whole(&path, layout.size, finished.crc32, &mut count)? {
                continue;
            }
            done.bytes = before;
        }
        let finished = write_shard(&path, units, &layout, &mut produce, &mut |bytes| {
            done.bytes += bytes;
            progress(done)
        })?;
        state.finished.insert(name.clone(), finished);
        state.save(job.out)?;
    }
    finish(job, &shards, &names)?;
    Ok(state.finished.into_values().flat_map(|shard| shard.errors).collect())
}

/// Locks the directory and says in its notes what will be written there.
fn open(job: &Job<'_>, shards: &[String]) -> Result<(Lock, State)> {
    // A directory that is somebody else's does not even get the file of the lock.
    refuse_foreign(job.out)?;
    std::fs::create_dir_all(job.out).map_err(|source| Error::io(job.out, source))?;
    let lock = Lock::take(job.out)?;
    refuse_foreign(job.out)?;
    let companions = job.companions.iter().filter_map(|path| path.file_name()?.to_str());
    let names = companions.chain([CONFIG, INDEX]).chain(shards.iter().map(String::as_str));
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    let state = State::open(job.out, &job.identity, names, job.restart)?;
    state.save(job.out)?;
    Ok((lock, state))
}

fn shard_name(index: usize, of: usize) -> String {
    format!("model-{:05}-of-{of:05}.safetensors", index + 1)
}

/// Whether the file has the size and the checksum it should have. `read` hears of the bytes that were read.
fn is_whole(path: &Path, size: u64, crc32: u32, read: &mut dyn FnMut(u64) -> Result<()>) -> Result<bool> {
    let Ok(mut file) = File::open(path) else { return Ok(false) };
    if !file.metadata().is_ok_and(|metadata| metadata.len() == size) {
        return Ok(false);
    }
    let (mut checksum, mut buffer) = (Hasher::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(checksum.finalize() == crc32),
            Ok(count) => {
                checksum.update(&buffer[..count]);
                read(count as u64)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // What cannot be read is written again.
            Err(_) => return Ok(false),
        }
    }
}

fn write_shard(
    path: &Path,
    units: &[Unit],
    layout: &Layout,
    produce: &mut impl FnMut(&Unit, &mut Sink<'_>) -> Result<Option<TensorError>>,
    written: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Finished> {
    let mut file = NewFile::create(path)?;
    file.write_at(0, &layout.header)?;
    let (mut errors, mut checksums) = (Vec::new(), Vec::new());
    for (unit, starts) in units.iter().zip(&layout.starts) {
        let at =
            starts.iter().zip(&unit.tensors).map(|(start, tensor)| (*start, start + tensor.bytes(), Hasher::new()));
        let mut sink = Sink { file: &mut file, at: at.collect(), written };
        errors.extend(produce(unit, &mut sink)?);
        assert!(sink.at.iter().all(|(at, end, _)| at == end), "{} was not written whole", unit.tensors[0].name);
        checksums.extend(starts.iter().copied().zip(sink.at.into_iter().map(|(_, _, checksum)| checksum)));
    }
    file.keep()?;
    Ok(Finished { crc32: whole_checksum(&layout.header, checksums), errors })
}

/// The checksum of a file from those of its header and of its tensors, each with its first byte.
fn whole_checksum(header: &[u8], mut tensors: Vec<(u64, Hasher)>) -> u32 {
    let mut whole = Hasher::new();
    whole.update(header);
    // Tensors without a byte begin where others do, and change nothing.
    tensors.sort_by_key(|(start, _)| *start);
    tensors.iter().for_each(|(_, checksum)| whole.combine(checksum));
    whole.finalize()
}

/// Writes a directory with a config and the files beside it, but no weights; its units are left out.
///
/// # Errors
/// The errors of [`write`].
pub fn write_directory(job: &Job<'_>) -> Result<()> {
    let _lock = open(job, &[])?;
    write_beside(job)?;
    remove_notes(job.out)
}

/// Writes companions and config.
fn write_beside(job: &Job<'_>) -> Result<()> {
    for file in &job.companions {
        let bytes = std::fs::read(file).map_err(|source| Error::io(file, source))?;
        replace(&job.out.join(file.file_name().unwrap_or_default()), &bytes)?;
    }
    write_json(&job.out.join(CONFIG), &job.config)
}

/// Writes companions, config, and at last the index: only then is the directory a checkpoint.
fn finish(job: &Job<'_>, shards: &[&[Unit]], shard_names: &[String]) -> Result<()> {
    write_beside(job)?;
    let mut weight_map = Map::new();
    for (units, shard) in shards.iter().zip(shard_names) {
        let names = units.iter().flat_map(|unit| &unit.tensors).map(|tensor| tensor.name.clone());
        weight_map.extend(names.map(|name| (name, json!(shard))));
    }
    weight_map.sort_keys();
    let total: u64 = job.units.iter().map(Unit::bytes).sum();
    write_json(&job.out.join(INDEX), &json!({"metadata": {"total_size": total}, "weight_map": weight_map}))?;
    remove_notes(job.out)
}

fn remove_notes(directory: &Path) -> Result<()> {
    let notes = directory.join(UNFINISHED);
    std::fs::remove_file(&notes).map_err(|source| Error::io(notes, source))?;
    sync_directory(directory)
}

fn write_json(path: &Path, json: &Value) -> Result<()> {
    replace(path, serde_json::to_string_pretty(json).expect("JSON values can be written").as_bytes())
}
