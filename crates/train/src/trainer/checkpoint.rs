use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::changes::{Changes, changes};
use super::files::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, io, read_tensors, rewrite_shard, sync, unreadable, write_json, write_tensors,
};
use super::unchanged::check_unchanged;
use super::{Objective, Trainer};
use crate::Result;
use crate::model::CODEC_WEIGHTS;
use crate::optim::{AdamW, AdamWConfig, Ema};

/// What a run continues from, beside the values of its parameters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TrainState {
    /// Steps taken.
    pub step: usize,
    /// Steps of the optimiser, which leaves out those that were skipped.
    pub optimizer_steps: i32,
    /// Where the data stand.
    pub data: serde_json::Value,
    /// Seconds of training.
    pub seconds: f64,
    /// The settings of the run, which must not change.
    pub settings: serde_json::Value,
}

/// A run as it was left.
#[derive(Debug)]
pub struct Resumed<O: Objective> {
    /// The trainer after its last checkpoint.
    pub trainer: Trainer<O>,
    /// Where it was.
    pub state: TrainState,
}

/// How a run begins.
#[derive(Debug)]
pub enum Started<O: Objective> {
    /// Its folder has no checkpoint: with the trainer as it was given.
    Anew(Box<Trainer<O>>),
    /// From its last checkpoint.
    Again(Box<Resumed<O>>),
}

const STATE: &str = "trainer/state.json";
const PARAMETERS: &str = "trainer/parameters.safetensors";
const OPTIMIZER: &str = "trainer/optimizer.safetensors";
const AVERAGES: &str = "trainer/ema.safetensors";
/// What the objective learned of its own, if it does.
const OBJECTIVE: &str = "trainer/objective.safetensors";
/// The end of the name of a checkpoint that is being written.
const PARTIAL: &str = ".partial";

/// The folder of the checkpoint after a step.
pub(super) fn folder(run: &Path, step: usize) -> PathBuf {
    run.join(format!("step-{step:06}"))
}

/// The steps that a run has whole checkpoints of, in order.
pub(super) fn steps(run: &Path) -> Result<Vec<usize>> {
    let mut steps = Vec::new();
    for entry in std::fs::read_dir(run).map_err(io(run))? {
        let name = entry.map_err(io(run))?.file_name();
        let step = name.to_string_lossy().strip_prefix("step-").and_then(|step| step.parse().ok());
        steps.extend(step.filter(|step| folder(run, *step).join(STATE).exists()));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Writes a checkpoint of a run: the source's directory with the trained tensors replaced, and what resuming needs.
///
/// It appears under its name when all of it is on disk; a run that is killed before leaves the last one whole.
pub(super) fn write<O: Objective>(
    source: &Path,
    run: &Path,
    trainer: &Trainer<O>,
    state: &TrainState,
) -> Result<PathBuf> {
    let whole = folder(run, state.step);
    let partial = whole.with_extension(&PARTIAL[1..]);
    write_model(source, &partial, trainer, trainer.exported())?;
    std::fs::create_dir(partial.join("trainer")).map_err(io(&partial))?;
    let parameters = on_host(trainer.trained());
    write_tensors(&partial.join(PARAMETERS), &parameters)?;
    let averages = trainer.ema.as_ref().map(|ema| on_host(ema.values().clone()));
    if let Some(averages) = &averages {
        write_tensors(&partial.join(AVERAGES), averages)?;
    }
    trainer.objective.export(&partial, averages.as_ref().unwrap_or(&parameters))?;
    write_tensors(&partial.join(OPTIMIZER), &on_host(trainer.optimizer.state()))?;
    let own = on_host(trainer.objective.state());
    if !own.is_empty() {
        write_tensors(&partial.join(OBJECTIVE), &own)?;
    }
    write_json(&partial.join(STATE), state)?;
    remove(&whole)?;
    std::fs::rename(&partial, &whole).map_err(io(&whole))?;
    sync(run)?;
    Ok(whole)
}

/// Writes the model alone in place of a folder: the source's directory with the trained tensors changed, adapters merged. `values` are
/// those of trained parameters in f32, which the model may hold in fewer bits.
///
/// # Errors
/// [`omni_core::Error::Io`] or [`omni_core::Error::Weights`] naming the file.
pub(crate) fn write_model<O: Objective>(
    source: &Path,
    target: &Path,
    trainer: &Trainer<O>,
    values: BTreeMap<String, Tensor<1>>,
) -> Result<()> {
    remove(target)?;
    std::fs::create_dir_all(target).map_err(io(target))?;
    copy_model(source, target, &changes(trainer, values)?)
}

/// Reads the values of tensors into host memory.
fn on_host(tensors: BTreeMap<String, Tensor<1>>) -> BTreeMap<String, Vec<f32>> {
    tensors.into_iter().map(|(name, values)| (name, nn::to_f32_vec(&values))).collect()
}

/// Copies a model's directory, with some tensors changed. Shards that hold none of these are linked where the file system can.
fn copy_model(source: &Path, target: &Path, changes: &Changes) -> Result<()> {
    for entry in std::fs::read_dir(source).map_err(io(source))? {
        let from = entry.map_err(io(source))?.path();
        let Some(name) = from.file_name().filter(|_| from.is_file()) else { continue };
        // Adapters of the source are merged in it; a run with adapters writes its own.
        if name == ADAPTER_CONFIG || name == ADAPTER_WEIGHTS {
            continue;
        }
        let to = target.join(name);
        // The codec's encoder is not part of the model: the objective that trains it writes its file.
        let is_shard = from.extension().is_some_and(|extension| extension == "safetensors") && name != CODEC_WEIGHTS;
        if is_shard && rewrite_shard(&from, &to, changes)? {
            continue;
        }
        if !is_shard || std::fs::hard_link(&from, &to).is_err() {
            std::fs::copy(&from, &to).map_err(io(&to))?;
        }
    }
    Ok(())
}

/// Removes all but the last `keep` checkpoints of a run.
pub(super) fn prune(run: &Path, keep: usize) -> Result<()> {
    let steps = steps(run)?;
    steps[..steps.len().saturating_sub(keep)].iter().try_for_each(|step| remove(&folder(run, *step)))
}

fn remove(folder: &Path) -> Result<()> {
    match folder.exists() {
        true => std::fs::remove_dir_all(folder).map_err(io(folder)),
        false => Ok(()),
    }
}

/// The last checkpoint of a run, if it has one, and what the run continues from.
pub(super) fn last_state(run: &Path) -> Result<Option<(PathBuf, TrainState)>> {
    let last = if run.exists() { steps(run)?.last().copied() } else { None };
    let Some(folder) = last.map(|step| folder(run, step)) else { return Ok(None) };
    let path = folder.join(STATE);
    let bytes = std::fs::read(&path).map_err(io(&path))?;
    let state = serde_json::from_slice(&bytes).map_err(|error| unreadable(&path, error))?;
    Ok(Some((folder, state)))
}

/// Begins a run, or continues it from its last checkpoint. `start` is the trainer as it is before the first step.
///
/// # Errors
/// Those of [`check_unchanged`], and what is wrong with the run's files.
pub fn resume<O: Objective, S: Serialize + DeserializeOwned + Default>(
    run: &Path,
    start: Trainer<O>,
    optimizer: AdamWConfig,
    settings: &S,
    device: &Device,
) -> Result<Started<O>> {
    check_unchanged(run, settings)?;
    let Some((folder, state)) = last_state(run)? else { return Ok(Started::Anew(Box::new(start))) };
    let parameters = read_tensors(&folder.join(PARAMETERS), device)?;
    let narrow = start.names.narrow(&start.model);
    let masters = parameters.iter().filter(|(name, _)| narrow.contains(*name));
    let masters = masters.map(|(name, values)| (name.clone(), values.clone())).collect();
    let model = start.names.with_values(start.model, parameters)?;
    let moments = read_tensors(&folder.join(OPTIMIZER), device)?;
    let optimizer = AdamW::resume(optimizer, state.optimizer_steps, moments)?.with_masters(masters);
    let averages = start.ema.is_some().then(|| read_tensors(&folder.join(AVERAGES), device)).transpose()?;
    let ema = averages.map(|averages| Ema::resume(state.optimizer_steps as usize, averages));
    let (own, mut objective) = (folder.join(OBJECTIVE), start.objective);
    let own = if own.exists() { read_tensors(&own, device)? } else { BTreeMap::new() };
    let model = objective.restore(model, own)?;
    Ok(Started::Again(Box::new(Resumed { trainer: Trainer { objective, model, optimizer, ema, ..start }, state })))
}
