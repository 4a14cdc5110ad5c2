//! The stages of an answer, each of which runs in a thread of its own: what they share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_channel::Sender;
use burn::tensor::Tensor;
use omni_core::Error;

use super::talker::TalkerReport;
use super::thinker::ThinkerReport;
use super::vocoder::VocoderReport;
use crate::output::{Event, SpeechFinish};
use crate::schedule::Permit;

/// What crosses from the thinker to the talker.
pub(crate) enum Word {
    /// Once, before any word: states of the accepted layer over the prompt, if it has media.
    Tap(Option<Box<Tensor<2>>>),
    /// An id that is to be spoken.
    Id(u32),
}

/// What stages tell the one who reads the answer.
pub(crate) enum Report {
    Event(Event),
    Thinker(Box<ThinkerReport>),
    Talker(TalkerReport),
    Vocoder(VocoderReport),
    Failed(Error),
}

/// What makes stages stop before their end.
pub(crate) struct Signals {
    cancelled: AtomicBool,
    failed: AtomicBool,
    silent: AtomicBool,
    /// Held by the one stage that works, if they may not work at once.
    exclusive: Option<Mutex<()>>,
}

impl Signals {
    pub(crate) fn new(sequential: bool) -> Self {
        let no = || AtomicBool::new(false);
        Self { cancelled: no(), failed: no(), silent: no(), exclusive: sequential.then(Mutex::default) }
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether nothing more is to be made.
    pub(crate) fn stopped(&self) -> bool {
        self.cancelled() || self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// The vocoder has heard nothing for too long.
    pub(super) fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    fn silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    pub(crate) fn sequential(&self) -> bool {
        self.exclusive.is_some()
    }

    /// Waits until no other stage works, if they may not work at once.
    pub(super) fn exclusive(&self) -> Option<MutexGuard<'_, ()>> {
        self.exclusive.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What every stage has.
#[derive(Clone)]
pub(crate) struct StageContext {
    pub(crate) reports: Sender<Report>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) started: Instant,
    /// Given back when the last stage has ended.
    pub(crate) _permit: Arc<Permit>,
}

impl StageContext {
    /// Hands an event out, waiting while the reader is behind. A reader that has gone wants no more of anything.
    pub(super) fn event(&self, event: Event) {
        self.report(Report::Event(event));
    }

    pub(crate) fn report(&self, report: Report) {
        if self.reports.send_blocking(report).is_err() {
            self.signals.cancel();
        }
    }
}

/// Why a stage of speech was stopped from outside, if it was.
pub(super) fn stop_from_outside(signals: &Signals) -> Option<SpeechFinish> {
    match (signals.stopped(), signals.silent()) {
        (true, _) => Some(SpeechFinish::Cancelled),
        (_, true) => Some(SpeechFinish::Silence),
        _ => None,
    }
}
