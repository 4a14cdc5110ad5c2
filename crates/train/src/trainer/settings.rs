use omni_core::Dtype;
use serde::{Deserialize, Serialize};

use crate::optim::{AdamWConfig, Schedule, ScheduleKind};
use crate::{Error, Result};

/// Settings that every stage has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// Optimiser steps.
    pub steps: usize,
    /// Most tokens of one batch.
    pub tokens_per_batch: usize,
    /// About how many batches have their lines sorted by length together before they are cut. More waste less attention on padding;
    /// with 1, each batch has lines of all lengths and kinds. The codec's segments and a model's own answers have none.
    pub window: usize,
    /// Batches whose gradients make one step.
    pub batches_per_step: usize,
    /// Highest learning rate.
    pub rate: f64,
    /// Learning rate at the end, as a part of the highest.
    pub lowest_rate: f64,
    /// Part of the steps in which the rate rises.
    pub warm_up: f64,
    /// How the rate falls.
    pub schedule: ScheduleKind,
    /// Largest norm of all gradients together.
    pub clip: f64,
    /// Decides the order of the data and all that is drawn at random.
    pub seed: u64,
    /// Steps from one checkpoint to the next.
    pub save_every: usize,
    /// Checkpoints that are kept.
    pub keep: usize,
    /// Whether checkpoints hold a moving average of the weights instead of the last ones.
    pub ema: bool,
    /// Number type of the computation. In `bf16`, for GPUs that have it, the optimiser keeps what is trained in f32; norms, softmax,
    /// routers' probabilities and losses are f32 anyway.
    pub dtype: TrainDtype,
    /// Settings of the optimiser.
    pub optimizer: AdamWConfig,
}

/// A number type that models are trained in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainDtype {
    /// 32 bits.
    #[default]
    F32,
    /// The upper half of [`TrainDtype::F32`].
    Bf16,
}

impl From<TrainDtype> for Dtype {
    fn from(dtype: TrainDtype) -> Self {
        match dtype {
            TrainDtype::F32 => Dtype::F32,
            TrainDtype::Bf16 => Dtype::Bf16,
        }
    }
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            steps: 1000,
            tokens_per_batch: 8192,
            window: 64,
            batches_per_step: 1,
            rate: 1e-5,
            lowest_rate: 0.1,
            warm_up: 0.05,
            schedule: ScheduleKind::Cosine,
            clip: 1.0,
            seed: 0,
            save_every: 100,
            keep: 2,
            ema: false,
            dtype: TrainDtype::F32,
            optimizer: AdamWConfig::default(),
        }
    }
}

impl RunSettings {
    /// The learning rate of each step.
    ///
    /// # Errors
    /// [`Error::Option`] naming a setting without sense.
    pub fn schedule(&self) -> Result<Schedule> {
        let counts = [
            ("steps", self.steps),
            ("tokens_per_batch", self.tokens_per_batch),
            ("window", self.window),
            ("batches_per_step", self.batches_per_step),
            ("save_every", self.save_every),
            ("keep", self.keep),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(Error::Option { name, reason: "0, expected 1 or more".into() });
        }
        if self.optimizer.rate_fan_in == Some(0) {
            let reason = "0, expected a number of inputs".into();
            return Err(Error::Option { name: "optimizer.rate_fan_in", reason });
        }
        for (name, part) in [("warm_up", self.warm_up), ("lowest_rate", self.lowest_rate)] {
            if !(0.0..=1.0).contains(&part) {
                return Err(Error::Option { name, reason: format!("{part}, expected a part between 0 and 1") });
            }
        }
        let positive = [("rate", self.rate), ("clip", self.clip)];
        if let Some((name, value)) = positive.into_iter().find(|(_, value)| !(*value > 0.0 && value.is_finite())) {
            return Err(Error::Option { name, reason: format!("{value}, expected a number above 0") });
        }
        Ok(Schedule {
            kind: self.schedule,
            peak: self.rate,
            lowest: self.rate * self.lowest_rate,
            warm_up: (self.warm_up * self.steps as f64).round() as usize,
            total: self.steps,
        })
    }
}
