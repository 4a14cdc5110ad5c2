//! Random-weight checkpoints of any size in the released layout, for tests and benchmarks.

use std::path::{Path, PathBuf};

use checkpoint::{ConfigFile, Expected, Manifest, Scheme, random_range};
use omni_core::{Dtype, Error, Result};
use qwen3_omni::{Component, OmniConfig};
use serde_json::{Map, Value, json};

use crate::quantize::{Plan, choose, packed_unit, quantised_config, shape_bytes};
use crate::random::Random;
use crate::shards::{self, Job, OutTensor, Progress, Sink, Unit, natural};
use crate::source::{VERSION, fingerprint, read_json, remove_key, set_dtype, stored_type};

/// What to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// A `config.json` of either key style.
    pub config: PathBuf,
    /// The directory to make; it must not hold a checkpoint yet.
    pub out: PathBuf,
    /// The same seed, config and dtype give the same bytes.
    pub seed: u64,
    /// Number of layers of thinker and talker; `None` for the config's.
    pub layers: Option<usize>,
    /// Number type on disk, of what is not quantised.
    pub dtype: Dtype,
    /// Linear layers that are written packed, if any.
    pub plan: Option<Plan>,
    /// Bytes after which a new shard is begun.
    pub shard_bytes: u64,
    /// Draw values to train from, instead of ones that keep activations in range. Not for packed layers.
    pub for_training: bool,
    /// Start over if the directory is half-written.
    pub restart: bool,
}

/// The files beside the config that make the directory usable; copied if present.
const COMPANIONS: [&str; 7] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
];

/// Writes the checkpoint, a piece of one tensor in memory at a time. It can be resumed as
/// [`quantize`](crate::quantize::quantize) can. Packed layers are drawn packed: there never is a float matrix of them.
///
/// # Errors
/// [`Error::Config`] for a bad config or number of layers, [`Error::Request`] for a directory that holds a checkpoint or
/// one that another command has begun, [`Error::Io`] naming the file that cannot be written.
pub fn init(options: &Options, mut progress: impl FnMut(Progress)) -> Result<()> {
    init_until(options, |done| {
        progress(done);
        Ok(())
    })
}

/// Does what [`init`] does, until `progress` returns an error, which stops it.
///
/// # Errors
/// The errors of [`init`] and of `progress`.
pub fn init_until(options: &Options, progress: impl FnMut(Progress) -> Result<()>) -> Result<()> {
    if options.for_training && options.plan.is_some() {
        return Err(Error::config("values to train from cannot be packed: expected either"));
    }
    let (json, manifest) = read_config(options)?;
    let (schemes, config) = packing(options, json, &manifest)?;
    let job = job(options, config, units(&manifest, &schemes, options.dtype));
    let produce = |unit: &Unit, sink: &mut Sink<'_>| {
        match unit.tensors[0].name.strip_suffix(".weight_packed") {
            Some(module) => {
                let name = format!("{module}.weight");
                write_packed(&name, &manifest[&name].shape, &schemes[&name], options, sink)?;
            }
            None => write_plain(&unit.tensors[0], options, sink)?,
        }
        Ok(None)
    };
    shards::write(&job, produce, progress).map(drop)
}

/// Writes only the config and the files beside it, as [`init`] does: a directory whose weights are drawn when it is loaded
/// (`OmniBuilder::random_weights`).
///
/// # Errors
/// The errors of [`init`].
pub fn init_without_weights(options: &Options) -> Result<()> {
    let (json, manifest) = read_config(options)?;
    let (_, config) = packing(options, json, &manifest)?;
    let mut job = job(options, config, Vec::new());
    job.identity.insert("no_weights".into(), json!(true));
    shards::write_directory(&job)
}

fn job(options: &Options, config: Value, units: Vec<Unit>) -> Job<'_> {
    Job {
        out: &options.out,
        identity: identity(options, &config),
        units,
        shard_bytes: options.shard_bytes,
        config,
        companions: companions(&options.config),
        restart: options.restart,
    }
}

type Schemes = std::collections::BTreeMap<String, Scheme>;

/// Which layers are packed, and the config that says so.
fn packing(options: &Options, json: Value, manifest: &Manifest) -> Result<(Schemes, Value)> {
    let no_plan = || Ok(Vec::new());
    let choices = options.plan.as_ref().map_or_else(no_plan, |plan| choose(manifest, plan))?;
    let packed = choices.iter().filter_map(|(module, scheme)| Some((format!("{module}.weight"), scheme.clone()?)));
    let schemes: Schemes = packed.collect();
    let config = if schemes.is_empty() { json } else { quantised_config(&json, &choices, options.dtype) };
    Ok((schemes, config))
}

/// The config with the wanted number of layers and number type, and the tensors it asks for.
fn read_config(options: &Options) -> Result<(Value, Manifest)> {
    // Reading it as a checkpoint does gives errors that name the key.
    OmniConfig::read(&options.config)?;
    let mut json: Value = read_json(&options.config)?;
    set_dtype(&mut json, options.dtype);
    // How the layers of another checkpoint were packed says nothing about those that are drawn.
    remove_key(&mut json, "quantization_config");
    if let Some(layers) = options.layers {
        if layers == 0 {
            return Err(Error::config("--layers is 0, expected at least 1"));
        }
        json["thinker_config"]["text_config"]["num_hidden_layers"] = json!(layers);
        if json["talker_config"].is_object() {
            json["talker_config"]["text_config"]["num_hidden_layers"] = json!(layers);
            let accepted = json["talker_config"]["accept_hidden_layer"].as_u64().unwrap_or(0);
            json["talker_config"]["accept_hidden_layer"] = json!(accepted.min(layers as u64));
        }
    }
    let config = OmniConfig::of(&ConfigFile::of_json(&options.config, json.clone()))?;
    config.check(&Component::ALL)?;
    Ok((json, config.manifest()?))
}

fn identity(options: &Options, config: &Value) -> Map<String, Value> {
    let mut identity = options.plan.as_ref().map_or_else(Map::new, Plan::identity);
    let entries = [
        ("command", json!("init")),
        ("version", json!(VERSION)),
        ("config", json!(options.config)),
        ("contents", json!(fingerprint(&config.to_string()))),
        ("seed", json!(options.seed)),
        ("layers", json!(options.layers)),
        ("dtype", json!(options.dtype.name())),
        ("for_training", json!(options.for_training)),
        ("shard_bytes", json!(options.shard_bytes)),
    ];
    identity.extend(entries.into_iter().map(|(key, value)| (key.to_owned(), value)));
    identity
}

fn units(manifest: &Manifest, schemes: &Schemes, dtype: Dtype) -> Vec<Unit> {
    let mut tensors: Vec<(&String, &Expected)> = manifest.iter().collect();
    tensors.sort_by_cached_key(|(name, _)| natural(name));
    let unit = |(name, expected): (&String, &Expected)| match (schemes.get(name), expected.shape.as_slice()) {
        (Some(scheme), [outputs, inputs]) => {
            packed_unit(name.strip_suffix(".weight").unwrap_or(name), [*outputs, *inputs], scheme)
        }
        (_, shape) => {
            Unit { tensors: vec![OutTensor { name: name.clone(), dtype: stored_type(dtype), shape: shape.to_vec() }] }
        }
    };
    tensors.into_iter().map(unit).collect()
}

fn companions(config: &Path) -> Vec<PathBuf> {
    let beside = config.parent().unwrap_or(Path::new("."));
    COMPANIONS.iter().map(|file| beside.join(file)).filter(|file| file.is_file()).collect()
}

fn write_plain(tensor: &OutTensor, options: &Options, sink: &mut Sink<'_>) -> Result<()> {
    let random = Random::new(options.seed, &tensor.name);
    let count = tensor.shape.iter().product();
    let range = if options.for_training { training_range } else { random_range };
    random.uniform(range(&tensor.name, &tensor.shape), options.dtype, count, |bytes| sink.write(0, bytes))
}

/// Matrices at the end of a residual branch or of a projection of several layers.
const BRANCH_ENDS: [&str; 6] =
    ["o_proj.weight", "down_proj.weight", "fc2.weight", "out_proj.weight", "attn.proj.weight", "mlp.2.weight"];

/// The range of a value to train from. Matrices: by their number of inputs; smaller at the end of a residual branch, so that a layer
/// begins close to doing nothing. Embeddings: about as large as what the first layers add. Training draws the vocoder's own
/// (`codec --fresh`).
fn training_range(name: &str, shape: &[usize]) -> (f32, f32) {
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    let deviation = match shape {
        _ if name.starts_with("code2wav.") => return random_range(name, shape),
        _ if ends(&[".bias"]) => return (0.0, 0.0),
        [] | [_] => return (1.0, 1.0),
        _ if name.ends_with("thinker.model.embed_tokens.weight") => 0.4,
        _ if ends(&["pos_embed.weight", "embedding.weight"]) || name.contains("codec_embedding.") => 0.2,
        [_, inputs @ ..] => {
            let part = match inputs {
                _ if ends(&BRANCH_ENDS) => 0.4,
                _ if name.contains("lm_head") || name.contains("codec_head") => 0.3,
                // In front of a GELU, which halves the variance.
                [_, _, _] => std::f32::consts::SQRT_2,
                _ => 1.0,
            };
            part / (inputs.iter().product::<usize>() as f32).sqrt()
        }
    };
    // A uniform value's deviation.
    let bound = deviation * 3.0_f32.sqrt();
    (-bound, bound)
}

/// Writes a packed tensor. Any word is valid; the scales make the values as large as those of [`write_plain`].
fn write_packed(name: &str, shape: &[usize], scheme: &Scheme, options: &Options, sink: &mut Sink<'_>) -> Result<()> {
    let [outputs, inputs] = [shape[0], shape[1]];
    let random = Random::new(options.seed, name);
    random.bytes(4 * outputs * scheme.words_in(inputs), |bytes| sink.write(0, bytes))?;
    let steps = (1u32 << scheme.bits) as f32;
    // Uniform integers in `steps` steps spread as wide as uniform values between the bounds.
    let scale = (random_range(name, shape).1 * 2.0) / steps;
    let groups = scheme.groups_in(inputs);
    let scales = Random::new(options.seed, &format!("{name}_scale"));
    scales.uniform((0.9 * scale, 1.1 * scale), Dtype::Bf16, outputs * groups, |bytes| sink.write(1, bytes))?;
    sink.write(2, &shape_bytes([outputs, inputs]))?;
    if scheme.symmetric {
        return Ok(());
    }
    // The stored form of a zero point in the middle of the range.
    let byte = if scheme.bits == 4 { 0x88 } else { 0x80 };
    sink.write(3, &vec![byte; 4 * scheme.words_in(outputs) * groups])
}
