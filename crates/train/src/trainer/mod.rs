//! The loop of every stage: batches to gradients, gradients to a step, steps to checkpoints that can be resumed exactly.

mod checkpoint;
mod files;
mod log;
mod plot;
mod run;
mod settings;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;

use crate::optim::{AdamW, Ema};
use crate::{Error, Gradients, ParamNames, Result};

pub(crate) use checkpoint::write_model;
pub use checkpoint::{Resumed, Started, TrainState, resume};
pub(crate) use files::{damaged, io, read_tensors, unreadable, write_adapter_files, write_json, write_shaped};
pub use log::{Log, StepLine};
pub use plot::write_plot;
pub use run::{Ended, Limits, Run};
pub use settings::RunSettings;

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

    /// Most threads that may share the batches of a step.
    fn most_workers(&self) -> usize {
        usize::MAX
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
}

/// What one batch adds to a step.
struct BatchStep {
    loss: f64,
    parts: BTreeMap<&'static str, f64>,
    gradients: Gradients,
}

impl<O: Objective> Trainer<O> {
    /// Makes a trainer before its first step; which parameters are trained is set in the model.
    pub fn new(objective: O, model: O::Model, names: ParamNames, run: &RunSettings) -> Self {
        let ema = run.ema.then(|| {
            let (trained, mut values) = (names.trained(&model), names.values(&model));
            values.retain(|name, _| trained.contains(name));
            Ema::new(values)
        });
        Self { objective, model, names, optimizer: AdamW::new(run.optimizer), clip: run.clip, ema }
    }

    /// The model as checkpoints hold it.
    ///
    /// # Errors
    /// [`Error::Batch`] if averages do not fit the model.
    pub(crate) fn exported(&self) -> Result<O::Model> {
        match &self.ema {
            None => Ok(self.model.clone()),
            Some(ema) => self.names.with_values(self.model.clone(), ema.values().clone()),
        }
    }

    /// Takes one step over several batches, as if they were one: gradients are sums over rows, divided once by the rows of all.
    /// `workers` threads share the batches; the result is the same for any number of them.
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
        let mut gradients = Gradients::default();
        // In the order of the batches, whoever computed them, so that sums are always rounded alike.
        self.batch_steps((number, rows), batches, workers, &mut |step| {
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
                ema.update(self.names.values(&self.model));
            }
        }
        Ok(report)
    }

    /// Computes all batches, as many at once as there are workers, and hands them to `take` in their order.
    fn batch_steps(
        &self,
        (number, rows): (usize, usize),
        batches: &[O::Batch],
        workers: usize,
        take: &mut dyn FnMut(BatchStep),
    ) -> Result<()> {
        let compute = |model: &O::Model, batch| self.batch_step(number, (model, batch), rows, batches.len());
        let workers = workers.min(self.objective.most_workers()).clamp(1, batches.len());
        if workers == 1 {
            // Parallel work that starts on a pool thread needs no switch of threads.
            let compute = |batch| rayon::scope(|_| compute(&self.model, batch));
            return batches.iter().try_for_each(|batch| compute(batch).map(&mut *take));
        }
        let models: Vec<O::Model> = (0..workers).map(|_| ParamNames::replica(&self.model)).collect();
        let compute = &compute;
        for batches in batches.chunks(workers) {
            let steps: Vec<Result<BatchStep>> = std::thread::scope(|scope| {
                let threads =
                    batches.iter().zip(&models).map(|(batch, model)| scope.spawn(move || compute(model, batch)));
                let threads: Vec<_> = threads.collect();
                let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                threads.into_iter().map(join).collect()
            });
            steps.into_iter().try_for_each(|step| step.map(&mut *take))?;
        }
        Ok(())
    }

    fn batch_step(
        &self,
        number: usize,
        (model, batch): (&O::Model, &O::Batch),
        rows: usize,
        batches: usize,
    ) -> Result<BatchStep> {
        let origin = || self.objective.origin(batch);
        let loss = self.objective.loss(model, batch);
        let in_batch = |source| Error::InBatch { step: number, batch: origin(), source: Box::new(source) };
        let BatchLoss { sum, extra, parts } = loss.map_err(in_batch)?;
        let mean = sum / rows as f64;
        let loss = match extra {
            Some(extra) => mean + extra / batches as f64,
            None => mean,
        };
        let value = f64::from(loss.clone().into_scalar::<f32>());
        if !value.is_finite() {
            return Err(Error::NotFiniteLoss { step: number, batch: origin() });
        }
        let gradients = self.names.gradients(model, &mut loss.backward());
        Ok(BatchStep { loss: value, parts, gradients })
    }
}
