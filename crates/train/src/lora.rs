//! Low-rank adapters (LoRA): `y = x Wᵀ + (α / r) x Aᵀ Bᵀ`, with `A` `[r, in]` and `B` `[out, r]` as PEFT names them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{LoraAdapter, Module, Param, Reparameterizer};
use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::{Checkpoint, param_id};
use omni_core::Dtype;

use crate::random::normal;
use crate::{Error, ParamNames, Patterns, Result};

/// The two factors of one adapted matrix.
#[derive(Debug, Clone)]
pub struct LoraFactors {
    /// `A`, `[r, in]`.
    pub a: Tensor<2>,
    /// `B`, `[out, r]`.
    pub b: Tensor<2>,
}

/// The size of a model's adapters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adapters {
    /// Rank `r` of the factors.
    pub rank: usize,
    /// `α`: the product of the factors counts `α / r`.
    pub alpha: f64,
}

/// What stands behind a module's name in the names of its factors `A` and `B`.
pub(crate) const ADAPTER_FACTORS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

/// Names of the factors of a module's matrix: that of `A`, that of `B`.
pub fn lora_names(module: &str) -> [String; 2] {
    ADAPTER_FACTORS.map(|factor| format!("{module}{factor}"))
}

/// Attaches adapters to the `[out, in]` matrices of the named modules (`…q_proj`, without `.weight`); `scale` is `α / r`.
///
/// The factors become parameters under [`lora_names`]; which parameters are trained is left to the stage's patterns.
///
/// # Errors
/// [`Error::Batch`] naming a module that has no matrix in the model, or factors that do not fit its matrix.
pub fn attach<M: Module>(
    module: M,
    names: &ParamNames,
    factors: BTreeMap<String, LoraFactors>,
    scale: f64,
) -> Result<M> {
    let mut misfit = None;
    let mut left = factors;
    let attach = Attach { names, factors: &mut left, scale, misfit: &mut misfit };
    let module = module.apply_reparameterization(attach);
    match misfit.or_else(|| left.into_keys().next().map(|name| format!("the model has no matrix `{name}.weight`"))) {
        Some(reason) => Err(Error::Batch(format!("adapter: {reason}"))),
        None => Ok(module),
    }
}

struct Attach<'a> {
    names: &'a ParamNames,
    factors: &'a mut BTreeMap<String, LoraFactors>,
    scale: f64,
    misfit: &'a mut Option<String>,
}

impl Reparameterizer for Attach<'_> {
    type Reparam = LoraAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        _: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LoraAdapter>) {
        let module = self.names.get(param.id).and_then(|name| name.strip_suffix(".weight"));
        let Some((module, factors)) = module.and_then(|module| Some((module, self.factors.remove(module)?))) else {
            return (param, None);
        };
        let (shape, [rank, input], [output, columns]) = (param.dims(), factors.a.dims(), factors.b.dims());
        if shape[..] != [output, input] || rank != columns {
            let (a, b) = (factors.a.dims(), factors.b.dims());
            *self.misfit = Some(format!("factors {a:?} and {b:?} for the matrix `{module}.weight` {shape:?}"));
            return (param, None);
        }
        let [name_a, name_b] = lora_names(module);
        let param_of =
            |name: &str, values: Tensor<2>| Param::initialized(param_id(name), values.detach().require_grad());
        // burn multiplies the factors from the left, so that its first one is PEFT's `B`.
        let (a, b) = (param_of(&name_b, factors.b), param_of(&name_a, factors.a));
        (param, Some(LoraAdapter { a, b, scale: self.scale }))
    }
}

/// The matrices `[out, in]` of a checkpoint whose modules the patterns match, by the names of these.
pub(crate) fn adapted_matrices<'a>(
    checkpoint: &'a Checkpoint,
    targets: &'a Patterns,
) -> impl Iterator<Item = (&'a str, [usize; 2])> {
    checkpoint.tensors().iter().filter_map(|(name, tensor)| {
        let module = name.strip_suffix(".weight").filter(|module| targets.matches(module))?;
        Some((module, <[usize; 2]>::try_from(&tensor.shape[..]).ok()?))
    })
}

/// Starting factors for every matrix of a checkpoint whose module the patterns match: `A` normal with variance `1 / in`, `B` zero, so
/// that nothing changes at first. The same seed gives the same values.
pub fn initial_factors(
    checkpoint: &Checkpoint,
    targets: &Patterns,
    rank: usize,
    seed: u64,
    (device, dtype): (&Device, Dtype),
) -> BTreeMap<String, LoraFactors> {
    let factors = adapted_matrices(checkpoint, targets).map(|(module, [output, input])| {
        let a = normal(seed, module, rank * input, (input as f64).powf(-0.5));
        let place = (device, dtype.into());
        let a = Tensor::from_data(TensorData::new(a, [rank, input]), place);
        (module.to_owned(), LoraFactors { a, b: Tensor::zeros([output, rank], place) })
    });
    factors.collect()
}

/// What adapters add to the matrices they belong to, flattened, by the names of these; made one at a time, from flattened factors.
pub(crate) fn products(
    factors: &BTreeMap<String, Tensor<1>>,
    Adapters { rank, alpha }: Adapters,
) -> impl Iterator<Item = (String, Tensor<1>)> {
    let pairs = factors.iter().filter_map(|(name, a)| {
        let module = name.strip_suffix(ADAPTER_FACTORS[0])?;
        let [_, name_b] = lora_names(module);
        Some((module, a.clone(), factors.get(&name_b)?.clone()))
    });
    pairs.map(move |(module, a, b)| {
        let (input, output) = (a.dims()[0] / rank, b.dims()[0] / rank);
        let product = b.reshape([output, rank]).matmul(a.reshape([rank, input])); // [out, in]
        (format!("{module}.weight"), product.mul_scalar(alpha / rank as f64).flatten(0, 1))
    })
}

/// Writes adapters in PEFT's form, `adapter_config.json` and `adapter_model.safetensors`, from flattened factors by name.
///
/// # Errors
/// [`omni_core::Error::Io`] or [`omni_core::Error::Weights`] naming the file.
pub fn write_adapter(
    folder: &Path,
    values: &BTreeMap<String, Vec<f32>>,
    rank: usize,
    alpha: f64,
    base: &Path,
) -> Result<()> {
    let shaped = values.iter().filter(|(name, _)| name.contains(".lora_")).map(|(name, values)| {
        let other = values.len() / rank;
        let shape = if name.ends_with(ADAPTER_FACTORS[0]) { [rank, other] } else { [other, rank] };
        (format!("base_model.model.{name}"), (shape, values.as_slice()))
    });
    let shaped: BTreeMap<String, ([usize; 2], &[f32])> = shaped.collect();
    let modules = values.keys().filter_map(|name| name.strip_suffix(ADAPTER_FACTORS[0]));
    let config = serde_json::json!({
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "target_modules": modules.collect::<Vec<_>>(),
    });
    crate::trainer::write_adapter_files(folder, &shaped, &config)
}
