//! The files that hold a checkpoint's weights, and how to tell that their values have changed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use checkpoint::Adapter;
use crc32fast::Hasher;
use omni_core::{Error, Result};
use serde_json::{Map, Value, json};

use super::json_file::read_json;
use crate::shards::INDEX;

/// Pieces of a file that are read to tell its contents from others.
const SAMPLES: u64 = 16;

/// Bytes of each of these pieces.
const SAMPLE: u64 = 1 << 16;

/// The names of the shards in a checkpoint directory, whether they are there or not, with the tensors that the index says they
/// hold; a single file without an index has none listed.
pub(crate) fn weight_files(directory: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let index = directory.join(INDEX);
    if !index.is_file() {
        return Ok(BTreeMap::from([("model.safetensors".to_owned(), Vec::new())]));
    }
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in read_json(&index)?["weight_map"].as_object().into_iter().flatten() {
        files.entry(file.as_str().unwrap_or_default().to_owned()).or_default().push(tensor.clone());
    }
    Ok(files)
}

/// What a change of a directory's weights shows in, by file: size, time of modification and a sample of the contents.
///
/// Hashing every byte would read the whole checkpoint before the first is written. The time shows a change of a single value, but
/// not that other files came with old times, as an archive restores them; the sample shows that. A file that was only touched counts
/// as changed too: beginning anew costs time, and a checkpoint of two sources would cost more.
pub(super) fn states(directory: &Path) -> Result<Value> {
    let files = weight_files(directory)?.into_keys();
    let states = files.map(|name| {
        let state = state(&directory.join(&name)).map_err(|source| Error::io(directory.join(&name), source))?;
        Ok((name, json!(state)))
    });
    states.collect::<Result<Map<String, Value>>>().map(Value::Object)
}

/// What a change of adapters shows in, in their order.
pub(crate) fn adapter_states(directories: &[PathBuf]) -> Result<Value> {
    let file = |path: PathBuf| {
        let state = state(&path).map_err(|source| Error::io(&path, source))?;
        Ok(format!("{}: {state}", path.canonicalize().unwrap_or(path).display()))
    };
    let files = directories.iter().flat_map(|adapter| Adapter::FILES.map(|name| adapter.join(name)));
    files.map(file).collect::<Result<Vec<String>>>().map(|states| json!(states))
}

fn state(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    // Systems without times have the sample alone.
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let sample = sample(&mut file, metadata.len())?;
    Ok(format!(
        "{} bytes of {}.{:09}, sample {sample:08x}",
        metadata.len(),
        modified.as_secs(),
        modified.subsec_nanos()
    ))
}

/// The checksum of pieces spread evenly from the first byte to the last; of all bytes if they are few.
fn sample(file: &mut File, size: u64) -> std::io::Result<u32> {
    let last = size.saturating_sub(SAMPLE);
    let (mut checksum, mut read_to) = (Hasher::new(), 0);
    for piece in 0..SAMPLES {
        let start = (last * piece / (SAMPLES - 1)).max(read_to);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.by_ref().take(SAMPLE).read_to_end(&mut bytes)?;
        checksum.update(&bytes);
        read_to = start + bytes.len() as u64;
    }
    Ok(checksum.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(bytes: &[u8]) -> u32 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        std::fs::write(&path, bytes).unwrap();
        sample(&mut File::open(path).unwrap(), bytes.len() as u64).unwrap()
    }

    #[test]
    fn the_first_and_the_last_byte_are_in_the_sample_and_every_byte_of_a_small_file() {
        for size in [0, 1, 70_000, 1_000_000] {
            let mut bytes = vec![7; size];
            let before = sampled(&bytes);
            for at in [0, size / 3, size / 2, size.saturating_sub(1)] {
                let Some(byte) = bytes.get_mut(at) else { continue };
                *byte ^= 1;
                assert_ne!(sampled(&bytes), before, "byte {at} of {size}");
                bytes[at] ^= 1;
            }
        }
        let mut bytes = vec![7; 5_000_000];
        let before = sampled(&bytes);
        *bytes.last_mut().unwrap() = 8;
        assert_ne!(sampled(&bytes), before);
    }
}
