use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::fan_in::fan_in;
use crate::{Error, Gradients, ParamNames, Result};

/// Settings of AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of tensors of two axes and more; vectors (norms, biases, scales) never decay.
    pub weight_decay: f64,
    /// Most inputs of a matrix that takes the full learning rate; a wider one takes that rate times `rate_fan_in / inputs`. A step of
    /// AdamW moves each value equally far, so that with one rate for all, the outputs of wide matrices change most.
    pub rate_fan_in: Option<usize>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, rate_fan_in: None }
    }
}

impl AdamWConfig {
    /// The learning rate of a parameter, as a part of that of the step.
    fn rate_factor(&self, name: &str, shape: &[usize]) -> f64 {
        match (self.rate_fan_in, fan_in(name, shape)) {
            (Some(most), Some(inputs)) if inputs > most => most as f64 / inputs as f64,
            _ => 1.0,
        }
    }
}

/// AdamW over parameters by name: first the decay, then the step, as in PyTorch.
///
/// A trained parameter whose gradient has no path counts as one whose gradient is zero: it decays.
#[derive(Debug, Clone, Default)]
pub struct AdamW {
    config: AdamWConfig,
    steps: i32,
    moments: BTreeMap<String, Moments>,
    /// Flattened f32 values of the parameters that are computed with in fewer bits: most steps are smaller than what rounding such a
    /// parameter takes away.
    masters: BTreeMap<String, Tensor<1>>,
}

const FIRST: &str = ".exp_avg";
const SECOND: &str = ".exp_avg_sq";

/// Flattened first and second moment.
#[derive(Debug, Clone)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

impl AdamW {
    /// Makes an optimiser without moments.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Number of steps taken.
    pub fn steps(&self) -> i32 {
        self.steps
    }

    /// The moments of every parameter that was moved, under PyTorch's names: `NAME.exp_avg` and `NAME.exp_avg_sq`.
    pub fn state(&self) -> BTreeMap<String, Tensor<1>> {
        let both = self.moments.iter().flat_map(|(name, Moments { first, second })| {
            [(format!("{name}{FIRST}"), first.clone()), (format!("{name}{SECOND}"), second.clone())]
        });
        both.collect()
    }

    /// The f32 values behind parameters of fewer bits that were moved, flattened.
    pub fn masters(&self) -> &BTreeMap<String, Tensor<1>> {
        &self.masters
    }

    /// Continues with [`AdamW::masters`].
    #[must_use]
    pub fn with_masters(self, masters: BTreeMap<String, Tensor<1>>) -> Self {
        Self { masters, ..self }
    }

    /// Continues after `steps` steps with the moments of [`AdamW::state`].
    ///
    /// # Errors
    /// [`Error::Batch`] naming a moment whose other half is missing.
    pub fn resume(config: AdamWConfig, steps: i32, mut state: BTreeMap<String, Tensor<1>>) -> Result<Self> {
        let firsts: Vec<String> = state.keys().filter_map(|key| Some(key.strip_suffix(FIRST)?.to_owned())).collect();
        let mut moments = BTreeMap::new();
        for name in firsts {
            let [first, second] = [FIRST, SECOND].map(|suffix| state.remove(&format!("{name}{suffix}")));
            let (Some(first), Some(second)) = (first, second) else {
                return Err(Error::Batch(format!("optimiser state: `{name}{SECOND}` is missing")));
            };
            moments.insert(name, Moments { first, second });
        }
        Ok(Self { config, steps, moments, ..Self::default() })
    }

    /// Takes one step with learning rate `rate`: moves all parameters that have an entry in `gradients`.
    #[must_use]
    pub fn step<M: Module>(&mut self, module: M, names: &ParamNames, gradients: Gradients, rate: f64) -> M {
        self.steps += 1;
        module.map(&mut Step { optimizer: self, names, gradients, rate })
    }

    /// The value after a step, flattened.
    fn stepped(
        &mut self,
        name: &str,
        value: Tensor<1>,
        gradient: Option<Tensor<1>>,
        decay: f64,
        rate: f64,
    ) -> Tensor<1> {
        let AdamWConfig { beta1, beta2, epsilon, .. } = self.config;
        let gradient = gradient.unwrap_or_else(|| value.zeros_like());
        let moments = self.moments.remove(name);
        let Moments { first, second } =
            moments.unwrap_or_else(|| Moments { first: value.zeros_like(), second: value.zeros_like() });
        let first = first * beta1 + gradient.clone() * (1.0 - beta1);
        let second = second * beta2 + gradient.square() * (1.0 - beta2);
        let corrected = |beta: f64| 1.0 - beta.powi(self.steps);
        let root = (second.clone() / corrected(beta2)).sqrt() + epsilon;
        let step = first.clone() / root * (rate / corrected(beta1));
        self.moments.insert(name.to_owned(), Moments { first, second });
        value * (1.0 - rate * decay) - step
    }
}

struct Step<'a> {
    optimizer: &'a mut AdamW,
    names: &'a ParamNames,
    gradients: Gradients,
    rate: f64,
}

impl ModuleMapper for Step<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(name) = self.names.get(param.id) else { return param };
        let Some(gradient) = self.gradients.0.remove(name) else { return param };
        let decay = if D > 1 { self.optimizer.config.weight_decay } else { 0.0 };
        let (id, value, mapper) = param.consume();
        let (dims, dtype) = (value.dims(), value.dtype());
        let rate = self.rate * self.optimizer.config.rate_factor(name, &dims);
        let master = self.optimizer.masters.remove(name);
        let value = master.unwrap_or_else(|| value.inner().flatten(0, D - 1).cast(DType::F32));
        let moved = self.optimizer.stepped(name, value, gradient, decay, rate);
        if dtype != DType::F32 {
            self.optimizer.masters.insert(name.to_owned(), moved.clone());
        }
        Param::from_mapped_value(id, Tensor::from_inner(moved.cast(dtype).reshape(dims)).require_grad(), mapper)
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::LinearConfig;
    use burn::tensor::Device;
    use checkpoint::param_id;

    use super::*;

    /// Values after steps of which each is far smaller than the distance of two bf16 values near 1, which is 1 / 128.
    fn after_steps(dtype: DType) -> (Vec<f32>, AdamW) {
        let names = ParamNames::new(["w".to_owned()]);
        let device = Device::flex().autodiff();
        let mut linear = LinearConfig::new(1, 2).with_bias(false).init(&device);
        let start = Tensor::<2>::from_data([[1.0, -1.0]], (&device, dtype)).require_grad();
        linear.weight = Param::initialized(param_id("w"), start);
        let mut optimizer = AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
        for _ in 0..100 {
            let gradient = Tensor::<1>::from_floats([1.0, 2.0], &Device::flex());
            let gradients = Gradients(BTreeMap::from([("w".to_owned(), Some(gradient))]));
            linear = optimizer.step(linear, &names, gradients, 1e-3);
            assert_eq!(linear.weight.val().dtype(), dtype);
        }
        (nn::to_f32_vec(&linear.weight.val()), optimizer)
    }

    #[test]
    fn steps_too_small_for_bf16_add_up() {
        let (wide, optimizer) = after_steps(DType::F32);
        assert!(optimizer.masters().is_empty());
        let (narrow, optimizer) = after_steps(DType::BF16);
        assert_eq!(nn::to_f32_vec(&optimizer.masters()["w"]), wide);
        assert!(wide.iter().zip([0.9, -1.1]).all(|(found, expected)| (found - expected).abs() < 1e-4), "{wide:?}");
        assert!(wide.iter().zip(&narrow).all(|(wide, narrow)| (wide - narrow).abs() <= 1.0 / 256.0), "{narrow:?}");
    }
}
