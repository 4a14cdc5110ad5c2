use std::collections::BTreeSet;

use burn::module::Module;
use burn::tensor::Device;
use checkpoint::Checkpoint;
use omni_core::Dtype;

use super::settings::LoraSettings;
use crate::lora::{attach, initial_factors, lora_names};
use crate::model::ThinkerModel;
use crate::trainer::RunSettings;
use crate::{Error, ParamNames, Patterns, Result};

/// Loads the thinker for training, in full by patterns or by adapters instead. Returns the model and the names of all its parameters.
pub(super) fn trainable_thinker(
    checkpoint: &Checkpoint,
    train: &str,
    lora: Option<&LoraSettings>,
    run: &RunSettings,
    device: &Device,
) -> Result<(ThinkerModel, ParamNames)> {
    let dtype = run.dtype.into();
    let device = device.clone().autodiff();
    let model = ThinkerModel::from_checkpoint(checkpoint, &device, dtype)?;
    let (model, names, trained) = match lora {
        None => (model, ParamNames::new(checkpoint.tensors().keys().cloned()), train),
        Some(lora) => with_adapters(checkpoint, model, lora, run.seed, ((&device, dtype), BTreeSet::new()))?,
    };
    let (model, _) = names.freeze(model, &trained.parse()?)?;
    Ok((model, names))
}

/// Patterns of the factors of all adapters.
const FACTORS: &str = "+*.lora_A.weight +*.lora_B.weight";

/// Attaches fresh adapters to a model; `added` are names of parameters that the checkpoint has not. Returns the model, the names of all
/// its parameters, and the patterns of the adapters.
pub(super) fn with_adapters<M: Module>(
    checkpoint: &Checkpoint,
    model: M,
    lora: &LoraSettings,
    seed: u64,
    (place, added): ((&Device, Dtype), BTreeSet<String>),
) -> Result<(M, ParamNames, &'static str)> {
    if lora.rank == 0 {
        return Err(Error::Option { name: "lora.rank", reason: "0, expected 1 or more".into() });
    }
    let targets: Patterns = lora.targets.parse()?;
    let factors = initial_factors(checkpoint, &targets, lora.rank, seed, place);
    if factors.is_empty() {
        return Err(Error::NothingTrained(lora.targets.clone()));
    }
    let added = factors.keys().flat_map(|module| lora_names(module)).chain(added);
    let names = ParamNames::new(checkpoint.tensors().keys().cloned().chain(added));
    let model = attach(model, &names, factors, lora.alpha / lora.rank as f64)?;
    Ok((model, names, FACTORS))
}
