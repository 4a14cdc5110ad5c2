use std::collections::BTreeMap;

use burn::tensor::Tensor;

/// Moving average of weights: `e ← d·e + (1 − d)·x` with `d = min(0.999, (1 + s) / (10 + s))` at update `s`, counted from 1.
#[derive(Debug, Clone)]
pub struct Ema {
    updates: usize,
    values: BTreeMap<String, Tensor<1>>,
}

impl Ema {
    /// Starts from the weights before the first step.
    pub fn new(values: BTreeMap<String, Tensor<1>>) -> Self {
        Self { updates: 0, values }
    }

    /// Continues after `updates` updates with the averages of [`Ema::values`].
    pub fn resume(updates: usize, values: BTreeMap<String, Tensor<1>>) -> Self {
        Self { updates, values }
    }

    /// The decay at an update, counted from 1.
    pub fn decay(update: usize) -> f64 {
        ((1 + update) as f64 / (10 + update) as f64).min(0.999)
    }

    /// Takes the weights after a step.
    pub fn update(&mut self, values: BTreeMap<String, Tensor<1>>) {
        self.updates += 1;
        let decay = Self::decay(self.updates);
        for (name, value) in values {
            if let Some(average) = self.values.get_mut(&name) {
                *average = average.clone() * decay + value * (1.0 - decay);
            }
        }
    }

    /// The averages by name, flattened.
    pub fn values(&self) -> &BTreeMap<String, Tensor<1>> {
        &self.values
    }
}
