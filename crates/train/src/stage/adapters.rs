use std::collections::BTreeSet;

use burn::module::Module;
use burn::tensor::Device;
use checkpoint::Checkpoint;
use omni_core::Dtype;

use super::settings::LoraSettings;
use crate::lora::{adapted_matrices, attach, initial_factors, lora_names};
use crate::model::ThinkerModel;
use crate::trainer::RunSettings;
use crate::{Error, ParamNames, Patterns, Result};

/// Prefixes of the tensor names of each trained model.
pub(super) const THINKER: &str = "thinker.";
pub(super) const TALKER: &str = "talker.";

/// Refuses patterns that match no tensor of a checkpoint and adapters that cannot be, which needs no model: loading one takes minutes.
/// The names of the model's tensors begin with `model`.
///
/// # Errors
/// Those of patterns, [`Error::NothingTrained`] and [`Error::Option`].
pub(super) fn check_trained(
    checkpoint: &Checkpoint,
    model: &str,
    train: &str,
    lora: Option<&LoraSettings>,
) -> Result<()> {
    let patterns: Patterns = lora.map_or(train, |lora| &lora.targets).parse()?;
    match lora {
        Some(LoraSettings { rank: 0, .. }) => {
            Err(Error::Option { name: "lora.rank", reason: "0, expected 1 or more".into() })
        }
        Some(_) if adapted_matrices(checkpoint, &patterns).next().is_some() => Ok(()),
        Some(_) => Err(Error::NothingTrained(patterns.to_string())),
        None => check_matched(checkpoint.tensors().keys().filter(|name| name.starts_with(model)), &patterns),
    }
}

/// Refuses patterns that match none of the names of a model that is not loaded yet.
pub(super) fn check_matched<'a>(mut names: impl Iterator<Item = &'a String>, patterns: &Patterns) -> Result<()> {
    match names.any(|name| patterns.matches(name)) {
        true => Ok(()),
        false => Err(Error::NothingTrained(patterns.to_string())),
    }
}

/// Loads the thinker for training, in full by patterns or by adapters instead. Returns the model and the names of all its parameters.
pub(super) fn trainable_thinker(
    checkpoint: &Checkpoint,
    train: &str,
    lora: Option<&LoraSettings>,
    run: &RunSettings,
    device: &Device,
) -> Result<(ThinkerModel, ParamNames)> {
    check_trained(checkpoint, THINKER, train, lora)?;
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

/// Attaches fresh adapters to a model, which [`check_trained`] found to have matrices for them; `added` are names of parameters that the
/// checkpoint has not. Returns the model, the names of all its parameters, and the patterns of the adapters.
pub(super) fn with_adapters<M: Module>(
    checkpoint: &Checkpoint,
    model: M,
    lora: &LoraSettings,
    seed: u64,
    (place, added): ((&Device, Dtype), BTreeSet<String>),
) -> Result<(M, ParamNames, &'static str)> {
    let targets: Patterns = lora.targets.parse()?;
    let factors = initial_factors(checkpoint, &targets, lora.rank, seed, place);
    let added = factors.keys().flat_map(|module| lora_names(module)).chain(added);
    let names = ParamNames::new(checkpoint.tensors().keys().cloned().chain(added));
    let model = attach(model, &names, factors, lora.alpha / lora.rank as f64)?;
    Ok((model, names, FACTORS))
}
