//! Random-weight checkpoints of any size in the released layout, for tests and benchmarks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use checkpoint::{OmniConfig, expected};
use half::{bf16, f16};
use omni_core::{Dtype, Error, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// What to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// A `config.json` of either key style.
    pub config: PathBuf,
    /// The directory to make; it must not hold a checkpoint yet.
    pub out: PathBuf,
    /// The same seed, config and dtype give the same bytes.
    pub seed: u64,
    /// Layers of thinker and talker, if not the config's.
    pub layers: Option<usize>,
    /// Number type on disk.
    pub dtype: Dtype,
    /// Bytes after which a new shard is begun.
    pub shard_bytes: u64,
}

/// How far writing has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Bytes of weights written.
    pub bytes: u64,
    /// Bytes of weights to write.
    pub total: u64,
}

/// The files beside the config that make the directory usable; copied if they lie there.
const COMPANIONS: [&str; 7] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
];

const INDEX: &str = "model.safetensors.index.json";

/// Writes the checkpoint, one tensor in memory at a time.
///
/// # Errors
/// [`Error::Config`] for a bad config or number of layers, [`Error::Request`] for a directory that holds a checkpoint,
/// [`Error::Io`] naming the file that cannot be written. On an error the files written so far are removed.
pub fn init(options: &Options, mut progress: impl FnMut(Progress)) -> Result<()> {
    let (json, config) = read_config(options)?;
    let mut tensors: Vec<(String, Vec<usize>)> = expected(&config).into_iter().collect();
    // Layers in numeric order, as a reader walks them.
    tensors.sort_by_cached_key(|(name, _)| natural(name));
    let held = [INDEX, "model.safetensors", "config.json"].into_iter().find(|file| options.out.join(file).exists());
    if let Some(file) = held {
        let reason = format!("there is a {file} already; expected an empty or new directory");
        return Err(Error::Request(format!("{}: {reason}", options.out.display())));
    }
    std::fs::create_dir_all(&options.out).map_err(|source| Error::io(&options.out, source))?;
    let shards = split(tensors, options);
    let mut written = Vec::new();
    let result = write_shards(options, &shards, &mut written, &mut progress)
        .and_then(|()| write_json(options, &json, &shards, &mut written));
    if result.is_err() {
        written.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
    result
}

/// The config with the wanted number of layers and number type, as JSON and parsed.
fn read_config(options: &Options) -> Result<(Value, OmniConfig)> {
    // Reading it as a checkpoint does gives errors that name the key.
    OmniConfig::read(&options.config)?;
    let text = std::fs::read_to_string(&options.config).map_err(|source| Error::io(&options.config, source))?;
    let bad = |error: serde_json::Error| Error::Config(format!("{}: {error}", options.config.display()));
    let mut json: Value = serde_json::from_str(&text).map_err(bad)?;
    let long = match options.dtype {
        Dtype::F32 => "float32",
        Dtype::Bf16 => "bfloat16",
        Dtype::F16 => "float16",
    };
    json["dtype"] = json!(long);
    if let Some(layers) = options.layers {
        if layers == 0 {
            return Err(Error::Config("--layers is 0, expected at least 1".into()));
        }
        json["thinker_config"]["text_config"]["num_hidden_layers"] = json!(layers);
        if json["talker_config"].is_object() {
            json["talker_config"]["text_config"]["num_hidden_layers"] = json!(layers);
            let accepted = json["talker_config"]["accept_hidden_layer"].as_u64().unwrap_or(0);
            json["talker_config"]["accept_hidden_layer"] = json!(accepted.min(layers as u64));
        }
    }
    let config = serde_json::from_value(json.clone()).map_err(bad)?;
    Ok((json, config))
}

/// Sorts `layers.10` after `layers.9`.
fn natural(name: &str) -> Vec<(String, u64)> {
    let parts = name.split('.');
    parts.map(|part| part.parse().map_or((part.to_owned(), 0), |number| (String::new(), number))).collect()
}

type Shard = Vec<(String, Vec<usize>)>;

fn bytes_of(shape: &[usize], dtype: Dtype) -> u64 {
    shape.iter().map(|n| *n as u64).product::<u64>() * dtype.size() as u64
}

fn split(tensors: Shard, options: &Options) -> Vec<Shard> {
    let mut shards: Vec<Shard> = vec![Vec::new()];
    let mut filled = 0;
    for (name, shape) in tensors {
        let bytes = bytes_of(&shape, options.dtype);
        if filled > 0 && filled + bytes > options.shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards.last_mut().expect("there is a first shard").push((name, shape));
    }
    shards
}

fn shard_name(index: usize, of: usize) -> String {
    format!("model-{:05}-of-{of:05}.safetensors", index + 1)
}

fn write_shards(
    options: &Options,
    shards: &[Shard],
    written: &mut Vec<PathBuf>,
    progress: &mut impl FnMut(Progress),
) -> Result<()> {
    let all = shards.iter().flatten().map(|(_, shape)| bytes_of(shape, options.dtype));
    let mut state = Progress { bytes: 0, total: all.sum() };
    for (index, shard) in shards.iter().enumerate() {
        let path = options.out.join(shard_name(index, shards.len()));
        written.push(path.clone());
        write_shard(&path, shard, options, |bytes| {
            state.bytes += bytes;
            progress(state);
        })
        .map_err(|source| Error::io(&path, source))?;
    }
    Ok(())
}

fn write_shard(path: &Path, shard: &Shard, options: &Options, mut done: impl FnMut(u64)) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut header = header(shard, options.dtype);
    // Tensor data begins at a multiple of eight.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for (name, shape) in shard {
        write_tensor(&mut file, name, shape, options)?;
        done(bytes_of(shape, options.dtype));
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
}

fn header(shard: &Shard, dtype: Dtype) -> String {
    let name = match dtype {
        Dtype::F32 => "F32",
        Dtype::Bf16 => "BF16",
        Dtype::F16 => "F16",
    };
    let mut at = 0;
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".into(), json!({"format": "pt"}));
    for (tensor, shape) in shard {
        let end = at + bytes_of(shape, dtype);
        entries.insert(tensor.clone(), json!({"dtype": name, "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    Value::Object(entries).to_string()
}

/// Each tensor has its own random stream, so its values do not depend on the shards.
fn write_tensor(file: &mut impl Write, name: &str, shape: &[usize], options: &Options) -> std::io::Result<()> {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    let mut random = ChaCha8Rng::seed_from_u64(options.seed ^ hash);
    let (low, high) = range(name, shape);
    for _ in 0..shape.iter().product::<usize>() {
        let value = low + (high - low) * random.random::<f32>();
        match options.dtype {
            Dtype::F32 => file.write_all(&value.to_le_bytes())?,
            Dtype::Bf16 => file.write_all(&bf16::from_f32(value).to_le_bytes())?,
            Dtype::F16 => file.write_all(&f16::from_f32(value).to_le_bytes())?,
        }
    }
    Ok(())
}

/// Uniform values that keep activations in range: matrices by their inputs, norms around 1, scales small.
fn range(name: &str, shape: &[usize]) -> (f32, f32) {
    let ends = |suffix: &str| name.ends_with(suffix);
    match shape {
        _ if ends("layer_scale.scale") || ends("gamma") => (0.005, 0.015),
        _ if ends(".alpha") || ends(".beta") => (-0.1, 0.1),
        _ if ends(".bias") => (-0.01, 0.01),
        [_] => (0.9, 1.1),
        [_, inputs @ ..] => {
            let bound = (3.0 / inputs.iter().product::<usize>() as f32).sqrt();
            (-bound, bound)
        }
        [] => (0.0, 1.0),
    }
}

fn write_json(options: &Options, config: &Value, shards: &[Shard], written: &mut Vec<PathBuf>) -> Result<()> {
    let mut write = |name: &str, json: &Value| {
        let path = options.out.join(name);
        let text = serde_json::to_string_pretty(json).expect("JSON values can be written");
        written.push(path.clone());
        std::fs::write(&path, text).map_err(|source| Error::io(&path, source))
    };
    write("config.json", config)?;
    let mut weight_map = BTreeMap::new();
    let mut total = 0;
    for (index, shard) in shards.iter().enumerate() {
        for (name, shape) in shard {
            weight_map.insert(name, shard_name(index, shards.len()));
            total += bytes_of(shape, options.dtype);
        }
    }
    write(INDEX, &json!({"metadata": {"total_size": total}, "weight_map": weight_map}))?;
    let beside = options.config.parent().unwrap_or(Path::new("."));
    for file in COMPANIONS.iter().filter(|file| beside.join(file).is_file()) {
        let target = options.out.join(file);
        if !target.exists() {
            written.push(target.clone());
            std::fs::copy(beside.join(file), &target).map_err(|source| Error::io(&target, source))?;
        }
    }
    Ok(())
}
