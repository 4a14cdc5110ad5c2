//! Types that the stages of an answer share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_channel::Sender;
use burn::tensor::Tensor;

use super::report::Report;
use crate::output::{Event, SpeechFinish};
use crate::schedule::Permit;

/// A message from the thinker to the talker.
pub(crate) enum Word {
    /// States of the accepted layer at the prompt's media rows, if it has any. Sent once, before any id.
    Tap(Option<Box<Tensor<2>>>),
    /// The id of a token to be spoken.
    Id(u32),
}

/// Signals that stop stages early, and the lock of sequential ones.
pub(crate) struct Signals {
    cancelled: AtomicBool,
    failed: AtomicBool,
    silent: AtomicBool,
    /// Held by the stage that computes, if stages run one at a time.
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

    /// Whether all stages are to stop.
    pub(crate) fn stopped(&self) -> bool {
        self.cancelled() || self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Tells the talker that the sound has been silent for too long.
    pub(super) fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    fn silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    pub(crate) fn sequential(&self) -> bool {
        self.exclusive.is_some()
    }

    /// Waits until no other stage computes, if stages run one at a time.
    pub(super) fn exclusive(&self) -> Option<MutexGuard<'_, ()>> {
        self.exclusive.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The context that every stage has.
#[derive(Clone)]
pub(crate) struct StageContext {
    pub(crate) reports: Sender<Report>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) started: Instant,
    /// Returned when the last stage has ended.
    pub(crate) _permit: Arc<Permit>,
}

impl StageContext {
    /// Sends an event, waiting while the reader is behind. If the reader has gone, all stages are cancelled.
    pub(super) fn event(&self, event: Event) {
        self.report(Report::Event(event));
    }

    pub(crate) fn report(&self, report: Report) {
        if self.reports.send_blocking(report).is_err() {
            self.signals.cancel();
        }
    }
}

/// The reason why the talker is to stop, if it is.
pub(super) fn requested_stop(signals: &Signals) -> Option<SpeechFinish> {
    match (signals.stopped(), signals.silent()) {
        (true, _) => Some(SpeechFinish::Cancelled),
        (_, true) => Some(SpeechFinish::Silence),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_talker_stops_for_a_cancelled_answer_and_for_silence() {
        let signals = Signals::new(false);
        assert!(requested_stop(&signals).is_none());
        signals.fall_silent();
        assert!(matches!(requested_stop(&signals), Some(SpeechFinish::Silence)));
        signals.cancel();
        assert!(matches!(requested_stop(&signals), Some(SpeechFinish::Cancelled)));
    }
}
