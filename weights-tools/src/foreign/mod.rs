//! Checkpoints in the packings of other tools: GPTQ (AutoRound's too), AWQ, and FP8 with a scale per block.
//!
//! They are turned into what the rest of this project reads: integers into the layout of `compressed-tensors`, which loses nothing, and
//! FP8 into floats.

mod awq;
mod fp8;
mod gptq;
mod kind;
mod layer;
mod tensors;

use std::collections::BTreeMap;
use std::path::Path;

use checkpoint::packed::{Groups, dequantize, unpack_zeros};
use checkpoint::{ConfigFault, ConfigFile, Manifest, Mismatch, TensorReport};
use omni_core::{Dtype, Error, Result};
use qwen3_omni::OmniConfig;
use safetensors::Dtype as Stored;
use serde_json::{Value, json};

use crate::convert::options::Options;
use crate::quantize::targets::{Choice, quantization_config};
use crate::quantize::{packed_unit, shape_bytes};
use crate::shards::{self, Job, OutTensor, Progress, Sink, Unit, natural};
use crate::source::{
    companions, float_of, floats, identity, read_json, remove_key, set_dtype, stored_type, write_floats,
};
pub(crate) use kind::Kind;
use layer::Layer;
use tensors::Tensors;

/// A checkpoint of another tool.
struct Foreign<'a> {
    kind: Kind,
    tensors: Tensors,
    manifest: Manifest,
    config: Value,
    options: &'a Options,
}

/// Converts a checkpoint of another tool; `None` if it is not one.
///
/// # Errors
/// The errors of [`convert`](crate::convert::convert), and [`Error::Unsupported`] for a packing of another kind.
pub(crate) fn convert(options: &Options, progress: impl FnMut(Progress) -> Result<()>) -> Option<Result<()>> {
    let kind = kind_of(&options.source)?;
    Some(kind.and_then(|kind| Foreign::open(kind, options)?.write(progress)))
}

fn kind_of(source: &Path) -> Option<Result<Kind>> {
    // What cannot be read is told by those who read it as an ordinary checkpoint.
    let config: Value = read_json(&source.join("config.json")).ok()?;
    let found = Kind::of(&config)?;
    Some(found.map_err(|ConfigFault { at, reason }| {
        Error::unsupported(format!("{}: `{at}` {reason}", source.join("config.json").display()))
    }))
}

impl<'a> Foreign<'a> {
    fn open(kind: Kind, options: &'a Options) -> Result<Self> {
        let path = options.source.join("config.json");
        let mut config = read_json(&path)?;
        remove_key(&mut config, "quantization_config");
        let manifest = OmniConfig::of(&ConfigFile::of_json(&path, config.clone()))?.manifest()?;
        let foreign = Self { kind, tensors: Tensors::open(&options.source)?, manifest, config, options };
        foreign.check()?;
        foreign.check_fp8()?;
        Ok(foreign)
    }

    /// The names of the tensors that stand for the `weight` of a packed layer; `None` for one that is not packed.
    fn members(&self, name: &str) -> Option<Vec<String>> {
        let module = name.strip_suffix(".weight")?;
        let has = |part: &str| self.tensors.shape(&format!("{module}.{part}")).is_some();
        let parts: &[&str] = match self.kind {
            Kind::Gptq { .. } if has("g_idx") => &["qweight", "qzeros", "scales", "g_idx"],
            Kind::Gptq { .. } | Kind::Awq => &["qweight", "qzeros", "scales"],
            Kind::Fp8 { .. } => &["weight", "weight_scale_inv"],
        };
        has(parts[if matches!(self.kind, Kind::Fp8 { .. }) { 1 } else { 0 }])
            .then(|| parts.iter().map(|part| format!("{module}.{part}")).collect())
    }

    /// Compares the tensors on disk with those the config asks for.
    fn check(&self) -> Result<()> {
        let mut report = TensorReport::default();
        let mut rest: BTreeMap<&str, &[usize]> = self.tensors.shapes().collect();
        for (name, expected) in &self.manifest {
            let members = self.members(name).filter(|_| expected.is_linear());
            let packed = members.is_some() && !matches!(self.kind, Kind::Fp8 { .. });
            for member in members.unwrap_or_else(|| vec![name.clone()]) {
                match rest.remove(member.as_str()) {
                    None => report.missing.push((member, expected.shape.clone())),
                    Some(found) if !packed && member == *name && found != expected.shape => {
                        let expected = expected.shape.clone();
                        report.mismatched.push(Mismatch { name: member, expected, found: found.to_vec() });
                    }
                    Some(_) => {}
                }
            }
        }
        report.unexpected = rest.into_iter().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect();
        match report.is_clean() {
            true => Ok(()),
            false => Err(Error::weights(format!("{}: {report}", self.options.source.display()))),
        }
    }

    fn check_fp8(&self) -> Result<()> {
        let Kind::Fp8 { block } = self.kind else { return Ok(()) };
        let linear =
            self.manifest.iter().filter(|(name, expected)| expected.is_linear() && self.members(name).is_some());
        let mut shaped = linear.filter_map(|(name, expected)| Some((name, *expected.shape.first_chunk::<2>()?)));
        shaped.try_for_each(|(name, shape)| fp8::check(&self.tensors, name, shape, block))
    }

    /// The packed layer that stands for a weight, if it is one of integers.
    fn layer(&self, name: &str) -> Result<Option<Layer>> {
        let Some((module, shape)) = self.integers(name) else { return Ok(None) };
        match self.kind {
            Kind::Gptq { bits, zeros_less_one, symmetric } => {
                gptq::layer(&self.tensors, (module, shape), bits, zeros_less_one, symmetric).map(Some)
            }
            Kind::Awq => awq::layer(&self.tensors, (module, shape)).map(Some),
            Kind::Fp8 { .. } => Ok(None),
        }
    }

    /// The words of a layer of integers.
    fn words(&self, module: &str, layer: &Layer) -> Result<Vec<i32>> {
        match self.kind {
            Kind::Gptq { bits, .. } => gptq::words(&self.tensors, (module, layer.shape), bits),
            Kind::Awq | Kind::Fp8 { .. } => awq::words(&self.tensors, (module, layer.shape)),
        }
    }

    /// Module and shape of a weight that is stored as integers.
    fn integers<'n>(&self, name: &'n str) -> Option<(&'n str, [usize; 2])> {
        let expected = self.manifest.get(name).filter(|expected| expected.is_linear())?;
        let (module, shape) = (name.strip_suffix(".weight")?, expected.shape.first_chunk::<2>()?);
        self.members(name).filter(|_| !matches!(self.kind, Kind::Fp8 { .. })).map(|_| (module, *shape))
    }

    fn write(&self, progress: impl FnMut(Progress) -> Result<()>) -> Result<()> {
        let options = self.options;
        let (units, choices) = self.plan()?;
        let listed: String = self.tensors.shapes().map(|(name, shape)| format!("{name}{shape:?};")).collect();
        let original: Value = read_json(&options.source.join("config.json"))?;
        let contents = [original.to_string(), listed].concat();
        let mut identity = identity(&options.source, &contents, "convert", options.dtype, options.shard_bytes)?;
        identity.insert("dequantize".into(), json!(options.dequantize));
        let mut config = self.config.clone();
        if let Some(dtype) = options.dtype {
            set_dtype(&mut config, dtype);
        }
        if choices.iter().any(|(_, scheme)| scheme.is_some()) {
            config["quantization_config"] = quantization_config(&choices);
        }
        let job = Job {
            out: &options.out,
            identity,
            units,
            shard_bytes: options.shard_bytes,
            config,
            companions: companions(&options.source)?,
            restart: options.restart,
        };
        let produce = |unit: &Unit, sink: &mut Sink<'_>| self.write_unit(unit, sink).map(|()| None);
        shards::write(&job, produce, progress).map(drop)
    }

    /// What will be written, and how each linear layer is packed there.
    fn plan(&self) -> Result<(Vec<Unit>, Vec<Choice>)> {
        let (mut units, mut choices) = (Vec::new(), Vec::new());
        let mut names: Vec<&String> = self.manifest.keys().collect();
        names.sort_by_cached_key(|name| natural(name));
        for name in names {
            let expected = &self.manifest[name];
            let layer = self.layer(name)?;
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let scheme = layer.as_ref().filter(|_| !self.options.dequantize).map(|layer| layer.scheme.clone());
            if expected.is_linear() {
                choices.push((module.to_owned(), scheme.clone()));
            }
            units.push(match (layer, scheme) {
                (Some(layer), Some(scheme)) => {
                    let mut unit = packed_unit(module, layer.shape, &scheme);
                    unit.tensors[1].dtype = stored_type(layer.scale_type);
                    if layer.order.is_some() {
                        let (name, shape) = (format!("{module}.weight_g_idx"), vec![layer.shape[1]]);
                        unit.tensors.push(OutTensor { name, dtype: Stored::I32, shape });
                    }
                    unit
                }
                (layer, _) => {
                    let dtype = self.plain_type(name, layer.as_ref())?;
                    let plain =
                        OutTensor { name: name.clone(), dtype: stored_type(dtype), shape: expected.shape.clone() };
                    Unit { tensors: vec![plain] }
                }
            });
        }
        Ok((units, choices))
    }

    /// The number type in which a tensor is written that is not packed.
    fn plain_type(&self, name: &str, layer: Option<&Layer>) -> Result<Dtype> {
        let own = || match (layer, self.members(name)) {
            (Some(layer), _) => Ok(layer.scale_type),
            // What FP8 is computed from.
            (None, Some(_)) => Ok(Dtype::Bf16),
            (None, None) => float_of(name, self.tensors.dtype(name)),
        };
        self.options.dtype.map_or_else(own, Ok)
    }

    fn write_unit(&self, unit: &Unit, sink: &mut Sink<'_>) -> Result<()> {
        let first = &unit.tensors[0];
        let name = match first.name.strip_suffix("_packed") {
            Some(weight) => weight,
            None => &first.name,
        };
        if let Some(layer) = self.layer(name)? {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let words = self.words(module, &layer)?;
            return match name == first.name {
                true => write_floats(name, &layer.values(&words), self.plain_type(name, Some(&layer))?, sink),
                false => layer.write(&words, &shape_bytes(layer.shape), sink),
            };
        }
        let dtype = self.plain_type(name, None)?;
        match self.kind {
            Kind::Fp8 { block } if self.members(name).is_some() => fp8::write(&self.tensors, first, block, dtype, sink),
            _ => self.write_plain(name, dtype, sink),
        }
    }

    fn write_plain(&self, name: &str, dtype: Dtype, sink: &mut Sink<'_>) -> Result<()> {
        let from = float_of(name, self.tensors.dtype(name))?;
        let bytes = self.tensors.read(name)?;
        match from == dtype {
            true => sink.write(0, &bytes),
            false => write_floats(name, &floats(&bytes, from), dtype, sink),
        }
    }
}

impl Layer {
    /// The values `[out, in]` the layer stands for.
    fn values(&self, words: &[i32]) -> Vec<f32> {
        let Self { shape: [outputs, inputs], scheme, .. } = self;
        let scales = floats(&self.scales, self.scale_type);
        let groups = self.order.as_deref().map_or(Groups::Consecutive(scheme.group_in(*inputs)), Groups::Listed);
        let zero_shape = [*outputs, scheme.groups_in(*inputs)];
        let zeros = self.zeros.as_ref().map(|zeros| unpack_zeros(zeros, zero_shape, scheme.bits));
        dequantize(words, self.shape, scheme.bits, groups, (&scales, zeros.as_deref()))
    }
}
