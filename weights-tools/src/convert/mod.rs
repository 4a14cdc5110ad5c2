//! Checkpoints in another number type, with shards of another size, with packed layers turned into floats again, with adapters merged,
//! or from the packing of another tool.

pub(crate) mod options;

use checkpoint::packed::{Groups, dequantize};
use checkpoint::{Checkpoint, PackedTensors};
use omni_core::{Dtype, Error, Result};
use qwen3_omni::{Component, OmniCheckpoint};
use serde_json::{Value, json};

pub use options::Options;

use crate::foreign;
use crate::shards::{self, Job, OutTensor, Progress, Sink, Unit, natural};
use crate::source::{
    Source, adapter_states, float_type, floats, remove_key, set_dtype, stored_type, write_converted, write_floats,
};

/// Rows of a packed matrix that are turned into floats at a time: a multiple of what a word of zero points holds.
const ROWS: usize = 256;

/// Writes the converted checkpoint, a piece of one tensor in memory at a time. It can be resumed as
/// [`quantize`](crate::quantize::quantize) can.
///
/// # Errors
/// [`Error::Request`] for a directory that holds a checkpoint or one that another command has begun; [`Error::Weights`]
/// for a value that the number type cannot hold, or an adapter that does not fit; [`Error::Unsupported`] for a packing that cannot be read; [`Error::Io`] naming
/// the file.
pub fn convert(options: &Options, mut progress: impl FnMut(Progress) -> Result<()>) -> Result<()> {
    // Adapters are merged into floats: a packing of another tool is refused where it is opened as an ordinary checkpoint.
    let foreign = options.adapters.is_empty().then(|| foreign::convert(options, &mut progress));
    if let Some(converted) = foreign.flatten() {
        return converted;
    }
    let mut source = Source::open(&options.source)?;
    options.adapters.iter().try_for_each(|adapter| source.checkpoint.add_adapter(adapter))?;
    let checkpoint = &source.checkpoint;
    checkpoint.check(&Component::ALL)?;
    let mut identity = source.identity("convert", options.dtype, options.shard_bytes)?;
    identity.insert("dequantize".into(), json!(options.dequantize));
    if !options.adapters.is_empty() {
        identity.insert("adapters".into(), adapter_states(&options.adapters)?);
    }
    let job = Job {
        out: &options.out,
        identity,
        units: units(checkpoint, options)?,
        shard_bytes: options.shard_bytes,
        config: config(&source.config, options),
        companions: source.companions()?,
        restart: options.restart,
    };
    let produce = |unit: &Unit, sink: &mut Sink<'_>| write_unit(checkpoint, unit, options, sink).map(|()| None);
    shards::write(&job, produce, progress).map(drop)
}

fn config(config: &Value, options: &Options) -> Value {
    let mut config = config.clone();
    if let Some(dtype) = options.dtype {
        set_dtype(&mut config, dtype);
    }
    if options.dequantize {
        remove_key(&mut config, "quantization_config");
    }
    config
}

/// The units to write: a packed layer is one unit, in whichever form it is written.
fn units(checkpoint: &OmniCheckpoint, options: &Options) -> Result<Vec<Unit>> {
    let mut names: Vec<&String> = checkpoint.tensors().keys().collect();
    names.sort_by_cached_key(|name| natural(name));
    let shapes = checkpoint.manifest();
    let is_packed = |module: &str| checkpoint.tensors().contains_key(&format!("{module}.weight_packed"));
    let mut units: Vec<Unit> = Vec::new();
    for name in names {
        let tensor = &checkpoint.tensors()[name];
        let mut out = OutTensor { name: name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() };
        let module = name.split_once(".weight_").map(|(module, _)| module).filter(|module| is_packed(module));
        match module {
            Some(module) if options.dequantize => {
                if name.ends_with(".weight_packed") {
                    let name = format!("{module}.weight");
                    let shape = shapes.get(&name).map(|expected| expected.shape.clone()).unwrap_or_default();
                    let dtype = stored_type(dense_type(checkpoint, module, options)?);
                    units.push(Unit { tensors: vec![OutTensor { name, dtype, shape }] });
                }
            }
            Some(module) => match units.last_mut().filter(|unit| unit.tensors[0].name.starts_with(module)) {
                // The members of a layer are neighbours in this order.
                Some(unit) if unit.tensors[0].name[module.len()..].starts_with(".weight_") => unit.tensors.push(out),
                _ => units.push(Unit { tensors: vec![out] }),
            },
            None => {
                out.dtype = options.dtype.map_or(out.dtype, stored_type);
                units.push(Unit { tensors: vec![out] });
            }
        }
    }
    Ok(units)
}

fn dense_type(checkpoint: &Checkpoint, module: &str, options: &Options) -> Result<Dtype> {
    let name = format!("{module}.weight_scale");
    options.dtype.map_or_else(|| float_type(&name, &checkpoint.tensors()[&name]), Ok)
}

fn write_unit(checkpoint: &Checkpoint, unit: &Unit, options: &Options, sink: &mut Sink<'_>) -> Result<()> {
    let out = &unit.tensors[0];
    if let Some(tensor) = checkpoint.tensors().get(&out.name) {
        if out.dtype != tensor.dtype {
            let dtype = options.dtype.expect("only a wished type differs from the source's");
            return write_converted(checkpoint, &out.name, dtype, sink);
        }
        for (index, out) in unit.tensors.iter().enumerate() {
            sink.write(index, &checkpoint.contents(&out.name)?)?;
        }
        return Ok(());
    }
    let module = out.name.strip_suffix(".weight").unwrap_or(&out.name);
    let shape = [out.shape[0], out.shape[1]];
    let packed = checkpoint.packed(module, shape)?;
    let packed = packed.ok_or_else(|| Error::weights(format!("layer `{module}` is neither packed nor plain")))?;
    write_dense(checkpoint, &packed, (module, shape), dense_type(checkpoint, module, options)?, sink)
}

fn write_dense(
    checkpoint: &Checkpoint,
    packed: &PackedTensors<'_>,
    (module, [outputs, inputs]): (&str, [usize; 2]),
    dtype: Dtype,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let words: Vec<i32> =
        checkpoint.bytes(packed.words).as_chunks::<4>().0.iter().map(|w| i32::from_le_bytes(*w)).collect();
    let scale_type = float_type(&format!("{module}.weight_scale"), packed.scales)?;
    let scales = floats(checkpoint.bytes(packed.scales), scale_type);
    let (per_row, groups) = (packed.words.shape[1], packed.scales.shape[1]);
    let order = packed.group_of_input.as_deref().map_or(Groups::Consecutive(packed.group), Groups::Listed);
    for row in (0..outputs).step_by(ROWS) {
        let rows = row..(row + ROWS).min(outputs);
        let of_rows = |width: usize| rows.start * width..rows.end * width;
        let zeros = packed.zeros.as_ref().map(|zeros| &zeros[of_rows(groups)]);
        let (words, scales) = (&words[of_rows(per_row)], &scales[of_rows(groups)]);
        let values = dequantize(words, [rows.len(), inputs], packed.bits, order, (scales, zeros));
        write_floats(module, &values, dtype, sink)?;
    }
    Ok(())
}
