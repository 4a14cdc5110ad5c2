use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::checkpoint::{prune, write};
use super::files::io;
use super::{Feed, Log, Objective, StepLine, TrainState, Trainer};
use crate::optim::Schedule;
use crate::{Error, Result};

/// When a run ends and what it leaves on the way.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Steps in all, those before a resume included.
    pub steps: usize,
    /// Longest time of this run, after which it ends with a checkpoint.
    pub time: Option<Duration>,
    /// Steps from one checkpoint to the next.
    pub save_every: usize,
    /// Checkpoints that are kept.
    pub keep: usize,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All steps are taken.
    Steps,
    /// Its time is over.
    Time,
    /// Its data are.
    Data,
    /// It was asked to stop.
    Stopped,
}

/// Steps of one run that skip in a row before it is given up.
const MOST_SKIPPED: usize = 10;

/// A run of a stage: where it reads its model from and writes to.
#[derive(Debug)]
pub struct Run<'a> {
    /// The checkpoint that training started from.
    pub source: &'a Path,
    /// Folder of the run's checkpoints and its log.
    pub folder: &'a Path,
    /// Learning rates.
    pub schedule: Schedule,
    /// When it ends.
    pub limits: Limits,
    /// Threads that share the batches of a step.
    pub workers: usize,
}

impl Run<'_> {
    /// Trains from `state` on until a limit is reached, the data end or `go_on` answers no to a finished step; the last step has a
    /// checkpoint. Returns why the run ended and its last checkpoint.
    ///
    /// # Errors
    /// [`Error::NotFiniteGradients`] after several steps in a row that had to be skipped, the errors of [`Trainer::step`], and those of
    /// the batches and files.
    pub fn train<O: Objective>(
        &self,
        trainer: &mut Trainer<O>,
        state: &mut TrainState,
        feed: &mut dyn Feed<O>,
        go_on: &mut dyn FnMut(&StepLine) -> bool,
    ) -> Result<(Ended, PathBuf)> {
        std::fs::create_dir_all(self.folder).map_err(io(self.folder))?;
        let mut log = Log::open(&self.folder.join("log.jsonl"), state.step)?;
        let (began, before) = (Instant::now(), state.seconds);
        let (mut skipped, mut saved) = (0, None);
        let ended = loop {
            if state.step >= self.limits.steps {
                break Ended::Steps;
            }
            if self.limits.time.is_some_and(|time| began.elapsed() >= time) {
                break Ended::Time;
            }
            let of_step = feed.next_step(trainer)?;
            if of_step.is_empty() {
                break Ended::Data;
            }
            let line = self.step(trainer, state, &of_step, (began, before))?;
            state.data = feed.state()?;
            log.add(&line)?;
            skipped = if line.skipped { skipped + 1 } else { 0 };
            if skipped >= MOST_SKIPPED {
                return Err(Error::NotFiniteGradients { step: state.step, steps: skipped });
            }
            if state.step.is_multiple_of(self.limits.save_every) {
                saved = Some((state.step, self.save(trainer, state)?));
            }
            if !go_on(&line) {
                break Ended::Stopped;
            }
        };
        match saved {
            Some((step, path)) if step == state.step => Ok((ended, path)),
            _ => Ok((ended, self.save(trainer, state)?)),
        }
    }

    fn step<O: Objective>(
        &self,
        trainer: &mut Trainer<O>,
        state: &mut TrainState,
        batches: &[O::Batch],
        (began, before): (Instant, f64),
    ) -> Result<StepLine> {
        let (start, rate) = (Instant::now(), self.schedule.rate(state.step));
        let report = trainer.step(state.step + 1, batches, rate, self.workers)?;
        state.step += 1;
        state.optimizer_steps = trainer.optimizer.steps();
        state.seconds = before + began.elapsed().as_secs_f64();
        Ok(StepLine {
            step: state.step,
            seconds: state.seconds,
            rate,
            loss: report.loss,
            grad_norm: report.norm,
            tokens: report.tokens,
            rows: report.rows,
            tokens_per_second: report.tokens as f64 / start.elapsed().as_secs_f64(),
            skipped: report.skipped,
            parts: report.parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect(),
        })
    }

    fn save<O: Objective>(&self, trainer: &Trainer<O>, state: &TrainState) -> Result<PathBuf> {
        let path = write(self.source, self.folder, trainer, state)?;
        prune(self.folder, self.limits.keep)?;
        Ok(path)
    }
}
