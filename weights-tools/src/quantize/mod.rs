//! Quantised checkpoints, in the layout of `compressed-tensors` that other systems read too.

pub(crate) mod error;
pub(crate) mod plan;
mod report_file;
mod rows;
pub(crate) mod targets;

use std::collections::BTreeMap;
use std::path::PathBuf;

use checkpoint::{Manifest, Scheme, StoredTensor};
use omni_core::{Dtype, Error, Result};
use qwen3_omni::{Component, OmniCheckpoint};
use safetensors::Dtype as Stored;
use serde_json::Value;

use crate::shards::{self, Job, OutTensor, Progress, Sink, Unit, natural};
use crate::source::{Source, set_dtype, stored_type, write_converted};
pub use error::{ComponentError, Report, TensorError};
pub use plan::{Grouping, Plan, Recipe};
pub use report_file::ReportFile;
use targets::{Choice, quantization_config};

/// What to quantise, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// A checkpoint directory that is not quantised yet.
    pub source: PathBuf,
    /// The directory to make; it must be new, empty, or half-written by the same options.
    pub out: PathBuf,
    /// Which layers, and how.
    pub plan: Plan,
    /// Number type of everything that is not quantised.
    pub dtype: Dtype,
    /// Bytes after which a new shard is begun.
    pub shard_bytes: u64,
    /// Start over if the directory is half-written.
    pub restart: bool,
}

/// Writes the quantised checkpoint, a piece of one tensor in memory at a time, and returns the error made.
///
/// An error of `progress` stops it. Whatever stopped it, the same options resume it where the last whole shard ends.
///
/// # Errors
/// [`Error::Request`] for options that contradict themselves, the source, or what another command has begun;
/// [`Error::Weights`] naming a weight that is not finite; [`Error::Io`] naming the file.
pub fn quantize(options: &Options, progress: impl FnMut(Progress) -> Result<()>) -> Result<Report> {
    let source = Source::open(&options.source)?;
    let checkpoint = &source.checkpoint;
    checkpoint.check(&Component::ALL)?;
    if checkpoint.quantization().is_some() {
        let advice = "undo it with `weights-tools convert --dequantize` first";
        return Err(Error::Request(format!(
            "{}: this checkpoint is quantised already; {advice}",
            options.source.display()
        )));
    }
    let choices = choices(checkpoint, &options.plan)?;
    let schemes: Schemes<'_> = choices.iter().filter_map(|(m, s)| Some((m.as_str(), s.as_ref()?))).collect();
    let mut identity = source.identity("quantize", Some(options.dtype), options.shard_bytes)?;
    identity.extend(options.plan.identity());
    let job = Job {
        out: &options.out,
        identity,
        units: units(checkpoint, &schemes, options.dtype),
        shard_bytes: options.shard_bytes,
        config: quantised_config(&source.config, &choices, options.dtype),
        companions: source.companions()?,
        restart: options.restart,
    };
    let produce = |unit: &Unit, sink: &mut Sink<'_>| write_unit(checkpoint, &schemes, unit, options.dtype, sink);
    let mut errors = shards::write(&job, produce, progress)?;
    errors.sort_by_cached_key(|error| natural(&error.module));
    Ok(Report::new(errors))
}

/// The modules that are quantised.
type Schemes<'a> = BTreeMap<&'a str, &'a Scheme>;

/// The config of a checkpoint with these choices.
pub(crate) fn quantised_config(config: &Value, choices: &[Choice], dtype: Dtype) -> Value {
    let mut config = config.clone();
    set_dtype(&mut config, dtype);
    config["quantization_config"] = quantization_config(choices);
    config
}

/// Every linear layer, in order, with the scheme the plan gives it.
fn choices(checkpoint: &OmniCheckpoint, plan: &Plan) -> Result<Vec<Choice>> {
    let choices = choose(checkpoint.manifest(), plan)?;
    if choices.iter().all(|(_, scheme)| scheme.is_none()) {
        let advice = "recipe, parts, patterns and widths leave no layer; `weights-tools convert` changes only the type";
        return Err(Error::Request(format!("there is nothing to quantise in this checkpoint: {advice}")));
    }
    Ok(choices)
}

/// The [`choices`] for the tensors of a config.
pub(crate) fn choose(manifest: &Manifest, plan: &Plan) -> Result<Vec<Choice>> {
    let chooser = plan.chooser()?;
    chooser.check_names(manifest)?;
    let linear = manifest.iter().filter(|(_, expected)| expected.is_linear());
    let mut choices: Vec<Choice> = linear
        .filter_map(|(name, expected)| Some((name.strip_suffix(".weight")?, &expected.shape)))
        .map(|(module, shape)| (module.to_owned(), chooser.scheme(module, [shape[0], shape[1]])))
        .collect();
    choices.sort_by_cached_key(|(module, _)| natural(module));
    Ok(choices)
}

/// The tensors a linear layer of this shape becomes.
pub(crate) fn packed_unit(module: &str, [outputs, inputs]: [usize; 2], scheme: &Scheme) -> Unit {
    let groups = scheme.groups_in(inputs);
    let part = |suffix: &str, dtype, shape| OutTensor { name: format!("{module}.{suffix}"), dtype, shape };
    let mut tensors = vec![
        part("weight_packed", Stored::I32, vec![outputs, scheme.words_in(inputs)]),
        part("weight_scale", Stored::BF16, vec![outputs, groups]),
        part("weight_shape", Stored::I64, vec![2]),
    ];
    if !scheme.symmetric {
        tensors.push(part("weight_zero_point", Stored::I32, vec![scheme.words_in(outputs), groups]));
    }
    Unit { tensors }
}

/// The contents of `weight_shape`.
pub(crate) fn shape_bytes(shape: [usize; 2]) -> Vec<u8> {
    shape.iter().flat_map(|size| (*size as i64).to_le_bytes()).collect()
}

fn units(checkpoint: &OmniCheckpoint, schemes: &Schemes<'_>, dtype: Dtype) -> Vec<Unit> {
    let mut tensors: Vec<(&String, &StoredTensor)> = checkpoint.tensors().iter().collect();
    tensors.sort_by_cached_key(|(name, _)| natural(name));
    let unit = |(name, tensor): (&String, &StoredTensor)| {
        let module = name.strip_suffix(".weight").and_then(|module| schemes.get_key_value(module));
        match (module, tensor.shape.as_slice()) {
            (Some((module, scheme)), [outputs, inputs]) => packed_unit(module, [*outputs, *inputs], scheme),
            (_, shape) => {
                let plain = OutTensor { name: name.clone(), dtype: stored_type(dtype), shape: shape.to_vec() };
                Unit { tensors: vec![plain] }
            }
        }
    };
    tensors.into_iter().map(unit).collect()
}

fn write_unit(
    checkpoint: &OmniCheckpoint,
    schemes: &Schemes<'_>,
    unit: &Unit,
    dtype: Dtype,
    sink: &mut Sink<'_>,
) -> Result<Option<TensorError>> {
    let first = &unit.tensors[0];
    let Some(module) = first.name.strip_suffix(".weight_packed") else {
        write_converted(checkpoint, &first.name, dtype, sink)?;
        return Ok(None);
    };
    let name = format!("{module}.weight");
    let (tensor, scheme) = (&checkpoint.tensors()[&name], schemes[module]);
    let sums = rows::quantize(checkpoint, (&name, tensor), scheme, sink)?;
    sink.write(2, &shape_bytes([tensor.shape[0], tensor.shape[1]]))?;
    let weights = tensor.shape.iter().map(|size| *size as u64).product();
    Ok(Some(sums.finish(module, scheme.to_string(), weights)))
}
