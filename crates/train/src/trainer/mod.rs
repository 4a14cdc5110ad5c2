//! The loop of every stage: batches to gradients, gradients to a step, steps to checkpoints that can be resumed exactly.

mod batch_steps;
mod changes;
mod checkpoint;
mod files;
mod log;
mod plot;
mod replica;
mod run;
mod settings;
mod unchanged;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::lora::Adapters;
use crate::optim::{AdamW, Ema};
use crate::{Error, Gradients, ParamNames, Result};

use batch_steps::StepTotals;
pub(crate) use checkpoint::write_model;
pub use checkpoint::{Resumed, Started, TrainState, resume};
pub(crate) use files::{damaged, io, read_tensors, unreadable, write_adapter_files, write_json, write_shaped};
pub use log::{Log, StepLine};
pub use plot::write_plot;
use replica::Replica;
pub use run::{Ended, Limits, Run};
pub use settings::{RunSettings, TrainDtype};
pub use unchanged::check_unchanged;

/// What a stage computes from a batch; several threads compute batches at once.
pub trait Objective: Sync {
    /// The trained model.
    type Model: Module + Sync;
    /// One batch.
    type Batch: Sync;

    /// Rows that carry loss in a batch, counted before it is computed.
    fn rows(&self, batch: &Self::Batch) -> usize;

    /// Tokens of a batch, for the log.
    fn tokens(&self, batch: &Self::Batch) -> usize;

    /// Where the batch's samples came from, for errors.
    fn origin(&self, batch: &Self::Batch) -> String;

    /// Whether the objective sets a tensor that nothing trains; checkpoints hold it too.
    fn derives(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// The size of the model's adapters, if it has some: checkpoints have them merged.
    fn adapters(&self) -> Option<Adapters> {
        None
    }

    /// Most threads that may share the batches of a step.
    fn most_workers(&self) -> usize {
        usize::MAX
    }

    /// The batch with its tensors on another device; `None` if it has no tensors.
    fn moved(&self, batch: &Self::Batch, device: &Device) -> Option<Self::Batch> {
        let _ = (batch, device);
        None
    }

    /// Computes the loss of a batch.
    ///
    /// # Errors
    /// Those of the model.
    fn loss(&self, model: &Self::Model, batch: &Self::Batch) -> Result<BatchLoss>;

    /// Tells the number of the step that is about to be taken, from 1.
    fn before_step(&mut self, step: usize) {
        let _ = step;
    }

    /// Learns what gradients of the loss do not teach, behind a step that was taken, and returns the model; `rate` is the step's.
    ///
    /// # Errors
    /// Those of the objective.
    fn after_step(&mut self, model: Self::Model, rate: f64) -> Result<Self::Model> {
        let _ = rate;
        Ok(model)
    }

    /// What the objective has learned of its own, flattened by name; checkpoints of a run hold it.
    fn state(&self) -> BTreeMap<String, Tensor<1>> {
        BTreeMap::new()
    }

    /// Continues with the [`Objective::state`] of a checkpoint, and returns the model with what depends on it.
    ///
    /// # Errors
    /// If the state is not its own.
    fn restore(&mut self, model: Self::Model, state: BTreeMap<String, Tensor<1>>) -> Result<Self::Model> {
        let _ = state;
        Ok(model)
    }

    /// Adds files of its own to a checkpoint, from the flattened values of all trained parameters.
    ///
    /// # Errors
    /// Those of the files.
    fn export(&self, folder: &Path, parameters: &BTreeMap<String, Vec<f32>>) -> Result<()> {
        let _ = (folder, parameters);
        Ok(())
    }
}

/// Where the batches of a run come from.
pub trait Feed<O: Objective> {
    /// The batches of the next step; empty when the data end. The trainer is passed in for stages whose model makes its own data.
    ///
    /// # Errors
    /// Those of the data.
    fn next_step(&mut self, trainer: &Trainer<O>) -> Result<Vec<O::Batch>>;

    /// The feed's position after the last step, for resuming.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    fn state(&self) -> Result<serde_json::Value>;
}

/// The loss of one batch.
#[derive(Debug, Clone)]
pub struct BatchLoss {
    /// Sum over the rows that carry loss, `[1]`: divided by the rows of the whole step.
    pub sum: Tensor<1>,
    /// A term that is a mean already, `[1]`, with its weight in it: averaged over the batches of a step.
    pub extra: Option<Tensor<1>>,
    /// Values for the log, averaged over the batches of a step.
    pub parts: BTreeMap<&'static str, f64>,
}

/// What one optimiser step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Loss of the step's rows and the mean of its extra terms.
    pub loss: f64,
    /// Norm of all gradients before clipping.
    pub norm: f64,
    /// Whether the step was left out, because a gradient was not finite.
    pub skipped: bool,
    /// Rows that carried loss.
    pub rows: usize,
    /// Tokens.
    pub tokens: usize,
    /// Mean of each of the batches' values.
    pub parts: BTreeMap<&'static str, f64>,
}

/// A model, its optimiser and what it learns.
#[derive(Debug)]
pub struct Trainer<O: Objective> {
    /// What is learned.
    pub objective: O,
    /// The model.
    pub model: O::Model,
    /// Names of its parameters.
    pub names: ParamNames,
    /// The optimiser.
    pub optimizer: AdamW,
    /// Largest norm of all gradients together.
    pub clip: f64,
    /// Moving average of the trained parameters, which checkpoints hold in their place.
    pub ema: Option<Ema>,
    /// The objective and its model on other devices, which share the batches of a step.
    replicas: Vec<Replica<O>>,
}

impl<O: Objective> Trainer<O> {
    /// Makes a trainer before its first step; which parameters are trained is set in the model.
    pub fn new(objective: O, model: O::Model, names: ParamNames, run: &RunSettings) -> Self {
        let ema = run.ema.then(|| Ema::new(names.trained_values(&model)));
        let optimizer = AdamW::new(run.optimizer);
        Self { objective, model, names, optimizer, clip: run.clip, ema, replicas: Vec::new() }
    }

    /// Shares the batches of each step with other devices. A trainer of the same stage and checkpoint is given for each; the parameters of
    /// this one are copied to them before every step, and their gradients are added up here.
    ///
    /// # Errors
    /// [`Error::Option`] naming the devices, for an objective whose batches no two threads may share.
    pub fn with_devices(mut self, others: impl IntoIterator<Item = (Device, Self)>) -> Result<Self> {
        let replica = |(device, Self { objective, model, .. })| Replica { objective, model, device };
        self.replicas.extend(others.into_iter().map(replica));
        if !self.replicas.is_empty() && self.objective.most_workers() == 1 {
            let devices = self.replicas.len() + 1;
            let reason = format!("{devices}, but batches of this stage depend on each other: expected one device");
            return Err(Error::Option { name: "device", reason });
        }
        Ok(self)
    }

    /// The values of the trained parameters, flattened, in f32.
    pub fn trained(&self) -> BTreeMap<String, Tensor<1>> {
        trained_values(&self.names, &self.model, &self.optimizer)
    }

    /// The values of what is trained as checkpoints hold them, flattened, in f32.
    pub(crate) fn exported(&self) -> BTreeMap<String, Tensor<1>> {
        self.ema.as_ref().map_or_else(|| self.trained(), |ema| ema.values().clone())
    }

    /// Takes one step over several batches, as if they were one: gradients are sums over rows, divided once by the rows of all.
    /// `workers` threads share the batches, at least one for each device; the result is the same for any number of them.
    ///
    /// # Errors
    /// [`Error::NotFiniteLoss`] naming the batch, [`Error::Batch`] if no row carries loss, and the errors of the objective.
    pub fn step(&mut self, number: usize, batches: &[O::Batch], rate: f64, workers: usize) -> Result<StepReport> {
        let rows: usize = batches.iter().map(|batch| self.objective.rows(batch)).sum();
        if rows == 0 {
            return Err(Error::Batch(format!("step {number} has no rows that carry loss")));
        }
        let mut report = StepReport {
            loss: 0.0,
            norm: 0.0,
            skipped: false,
            rows,
            tokens: batches.iter().map(|batch| self.objective.tokens(batch)).sum(),
            parts: BTreeMap::new(),
        };
        self.objective.before_step(number);
        self.update_replicas(number)?;
        let mut gradients = Gradients::default();
        // In the order of the batches, whoever computed them, so that sums are always rounded alike.
        let totals = StepTotals { number, rows, batches: batches.len() };
        self.batch_steps(totals, batches, workers, &mut |step| {
            report.loss += step.loss;
            for (name, part) in step.parts {
                *report.parts.entry(name).or_default() += part / batches.len() as f64;
            }
            gradients.add(step.gradients);
        })?;
        report.norm = gradients.clip(self.clip);
        report.skipped = !report.norm.is_finite();
        if !report.skipped {
            let model = self.optimizer.step(self.model.clone(), &self.names, gradients, rate);
            self.model = self.objective.after_step(model, rate)?;
            if let Some(ema) = &mut self.ema {
                ema.update(trained_values(&self.names, &self.model, &self.optimizer));
            }
        }
        Ok(report)
    }
}

/// The values of the trained parameters, those in f32 that the optimiser keeps in place of rounded ones.
fn trained_values<M: Module>(names: &ParamNames, model: &M, optimizer: &AdamW) -> BTreeMap<String, Tensor<1>> {
    let (trained, masters) = (names.trained(model), optimizer.masters());
    // What has f32 values is not copied to others first.
    let mut values = names.values_of(model, &|name| trained.contains(name) && !masters.contains_key(name));
    values.extend(masters.clone());
    values
}
