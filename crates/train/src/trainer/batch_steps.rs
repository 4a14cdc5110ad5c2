//! The batches of one step, shared by threads and devices.

use std::collections::BTreeMap;
use std::thread;

use super::{BatchLoss, Objective, Trainer};
use crate::{Error, Gradients, ParamNames, Result};

/// What one batch adds to a step.
pub(super) struct BatchStep {
    pub(super) loss: f64,
    pub(super) parts: BTreeMap<&'static str, f64>,
    pub(super) gradients: Gradients,
}

/// The step that batches belong to.
#[derive(Clone, Copy)]
pub(super) struct StepTotals {
    pub(super) number: usize,
    /// Rows of all batches that carry loss.
    pub(super) rows: usize,
    pub(super) batches: usize,
}

/// Where a thread computes its batches.
struct Worker<'a, O: Objective> {
    objective: &'a O,
    model: O::Model,
    /// Index of its replica, `None` on the trainer's own device.
    replica: Option<usize>,
}

impl<O: Objective> Trainer<O> {
    /// Computes all batches, as many at once as there are workers, and hands them to `take` in their order.
    pub(super) fn batch_steps(
        &self,
        step: StepTotals,
        batches: &[O::Batch],
        workers: usize,
        take: &mut dyn FnMut(BatchStep),
    ) -> Result<()> {
        let workers = workers.max(self.replicas.len() + 1);
        let workers = workers.min(self.objective.most_workers()).clamp(1, batches.len());
        if workers == 1 {
            // Parallel work that starts on a pool thread needs no switch of threads.
            let compute = |batch| rayon::scope(|_| self.batch_step(step, (&self.objective, &self.model), batch));
            return batches.iter().try_for_each(|batch| compute(batch).map(&mut *take));
        }
        let workers: Vec<Worker<O>> = (0..workers).map(|at| self.worker(at)).collect();
        let home = self.device().filter(|_| !self.replicas.is_empty());
        // Moved one after another, so that the first device has room for those of one other device at a time.
        let mut take_home = |mut step: BatchStep| {
            home.iter().for_each(|home| step.gradients.move_to(home));
            take(step);
        };
        for batches in batches.chunks(workers.len()) {
            let steps: Vec<Result<BatchStep>> = thread::scope(|scope| {
                let shared = batches.iter().zip(&workers);
                let threads = shared.map(|(batch, worker)| scope.spawn(|| self.computed_by(worker, step, batch)));
                let threads: Vec<_> = threads.collect();
                let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                threads.into_iter().map(join).collect()
            });
            steps.into_iter().try_for_each(|step| step.map(&mut take_home))?;
        }
        Ok(())
    }

    /// Workers take the devices in turn.
    fn worker(&self, at: usize) -> Worker<'_, O> {
        let replica = (at % (self.replicas.len() + 1)).checked_sub(1);
        let (objective, model) = match replica.map(|replica| &self.replicas[replica]) {
            None => (&self.objective, &self.model),
            Some(replica) => (&replica.objective, &replica.model),
        };
        Worker { objective, model: ParamNames::replica(model), replica }
    }

    fn computed_by(&self, worker: &Worker<O>, step: StepTotals, batch: &O::Batch) -> Result<BatchStep> {
        let on = (worker.objective, &worker.model);
        let Some(replica) = worker.replica.map(|replica| &self.replicas[replica]) else {
            return self.batch_step(step, on, batch);
        };
        let moved = worker.objective.moved(batch, &replica.device);
        self.batch_step(step, on, moved.as_ref().unwrap_or(batch))
    }

    fn batch_step(&self, step: StepTotals, (objective, model): (&O, &O::Model), batch: &O::Batch) -> Result<BatchStep> {
        let origin = || objective.origin(batch);
        let loss = objective.loss(model, batch);
        let in_batch = |source| Error::InBatch { step: step.number, batch: origin(), source: Box::new(source) };
        let BatchLoss { sum, extra, parts } = loss.map_err(in_batch)?;
        let mean = sum / step.rows as f64;
        let loss = match extra {
            Some(extra) => mean + extra / step.batches as f64,
            None => mean,
        };
        let value = f64::from(loss.clone().into_scalar::<f32>());
        if !value.is_finite() {
            return Err(Error::NotFiniteLoss { step: step.number, batch: origin() });
        }
        let gradients = self.names.gradients(model, &mut loss.backward());
        Ok(BatchStep { loss: value, parts, gradients })
    }
}
