//! Checkpoints of full width with random weights.

use std::path::{Path, PathBuf};

use omni_core::{Dtype, Error, Result};
use serde_json::Value;
use tempfile::TempDir;
use weights_tools::init::{Options, init, init_without_weights};
use weights_tools::quantize::Plan;

/// Writes a random checkpoint of full width, with nano's tokenizer and its special ids, so that it can be talked to.
///
/// `layers`, if given, is the number of layers of thinker and talker; `plan` says what is quantised. A finished directory is left as it
/// is.
///
/// # Errors
/// The errors of [`init`].
pub fn write(out: &Path, layers: Option<usize>, plan: Plan) -> Result<()> {
    if out.join("model.safetensors.index.json").is_file() {
        return Ok(());
    }
    let source = source(&testkit::nano())?;
    init(&options(source.path(), out, layers, plan), |_| {})
}

/// Writes config and tokenizer alone, for `OmniBuilder::random_weights`. The tokenizer is taken from `nano`, the directory of the
/// nano model.
///
/// # Errors
/// The errors of [`init_without_weights`].
pub fn write_without_weights(out: &Path, nano: &Path, layers: Option<usize>, plan: Plan) -> Result<()> {
    let source = source(nano)?;
    init_without_weights(&options(source.path(), out, layers, plan))
}

/// Writes config and tokenizer of nano's own size, without weights.
///
/// # Errors
/// The errors of [`init_without_weights`].
pub fn write_nano_without_weights(out: &Path, nano: &Path, layers: Option<usize>, plan: Plan) -> Result<()> {
    init_without_weights(&options(nano, out, layers, plan))
}

fn options(source: &Path, out: &Path, layers: Option<usize>, plan: Plan) -> Options {
    let plan = (plan.recipe.is_some() || plan.bits.is_some()).then_some(plan);
    let (config, out, shard_bytes) = (source.join("config.json"), out.to_owned(), 4 << 30);
    Options { config, out, seed: 0, layers, dtype: Dtype::Bf16, plan, shard_bytes, for_training: false, restart: true }
}

/// The released config beside nano's tokenizer.
fn source(nano: &Path) -> Result<TempDir> {
    let source = tempfile::tempdir().map_err(|source| Error::io(nano, source))?;
    let files = std::fs::read_dir(nano).map_err(|source| Error::io(nano, source))?;
    let files = files.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let small = |path: &PathBuf| path.is_file() && path.extension().is_none_or(|kind| kind != "safetensors");
    for path in files.filter(small) {
        let target = source.path().join(path.file_name().unwrap_or_default());
        std::fs::copy(&path, target).map_err(|source| Error::io(&path, source))?;
    }
    let config = source.path().join("config.json");
    let from = json(&std::fs::read_to_string(&config).map_err(|source| Error::io(&config, source))?)?;
    let mut released = json(weights_tools::inspect::RELEASED)?;
    take_ids(&mut released, &from);
    take_ids(&mut released["thinker_config"], &from["thinker_config"]);
    take_ids(&mut released["talker_config"], &from["thinker_config"]);
    std::fs::write(&config, released.to_string()).map_err(|source| Error::io(&config, source))?;
    Ok(source)
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| Error::config(error.to_string()).caused_by(error))
}

/// Ids that the tokenizer and the config must agree on.
fn take_ids(config: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        if key.ends_with("token_id") && config.get(key).is_some() {
            config[key] = value.clone();
        }
    }
}
