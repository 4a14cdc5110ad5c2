//! Places for answers: so many at once, a queue of bounded length before them, refusals beyond it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ApiError, ApiResult};
use crate::metrics::Metrics;

pub(crate) struct Admission {
    // Fair: who came first is served first.
    free: Arc<Semaphore>,
    most: usize,
    waiting: AtomicUsize,
    most_waiting: usize,
    queue_time: Duration,
    metrics: Arc<Metrics>,
}

/// The place of one answer, free again when it is dropped.
pub(crate) struct Permit {
    _place: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Permit {
    fn new(place: OwnedSemaphorePermit, metrics: &Arc<Metrics>) -> Self {
        metrics.running.inc();
        Self { _place: place, metrics: metrics.clone() }
    }
}

/// As many places as a semaphore can have and hand out at once, if more are asked for.
pub(crate) fn places(count: usize) -> u32 {
    u32::try_from(count.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX)
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.metrics.running.dec();
    }
}

/// Counts a request that waits.
struct Waiting<'a>(&'a Admission);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.waiting.dec();
    }
}

impl Admission {
    pub(crate) fn new(most: usize, most_waiting: usize, queue_time: Duration, metrics: Arc<Metrics>) -> Self {
        let free = Arc::new(Semaphore::new(places(most) as usize));
        Self { free, most, waiting: AtomicUsize::new(0), most_waiting, queue_time, metrics }
    }

    /// Waits for the places of `count` answers.
    ///
    /// # Errors
    /// 429 if too many wait already, or none became free in time; 400 for more answers than can ever run at once; 503 after
    /// [`Admission::close`].
    pub(crate) async fn admit(&self, count: usize) -> ApiResult<Vec<Permit>> {
        if count > self.most {
            let message = format!("{count} answers, but this server makes at most {} at once", self.most);
            return Err(ApiError::invalid("n", message));
        }
        let wanted = u32::try_from(count).unwrap_or(u32::MAX);
        let taken = match self.free.clone().try_acquire_many_owned(wanted) {
            Ok(taken) => taken,
            Err(_) => self.wait(wanted).await?,
        };
        Ok(self.share(taken))
    }

    /// Waits for the place of one answer.
    ///
    /// # Errors
    /// The errors of [`Admission::admit`].
    pub(crate) async fn admit_one(&self) -> ApiResult<Permit> {
        self.admit(1).await?.pop().ok_or_else(ApiError::internal)
    }

    /// Refuses everything from now on, also what waits.
    pub(crate) fn close(&self) {
        self.free.close();
    }

    async fn wait(&self, count: u32) -> ApiResult<OwnedSemaphorePermit> {
        let _waiting = self.queue()?;
        match tokio::time::timeout(self.queue_time, self.free.clone().acquire_many_owned(count)).await {
            Ok(Ok(taken)) => Ok(taken),
            Ok(Err(_)) => Err(ApiError::shutting_down()),
            Err(_) => Err(ApiError::busy(format!(
                "no place for an answer became free within {} s",
                self.queue_time.as_secs()
            ))),
        }
    }

    fn queue(&self) -> ApiResult<Waiting<'_>> {
        let next = |waiting| (waiting < self.most_waiting).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(_) => {
                self.metrics.waiting.inc();
                Ok(Waiting(self))
            }
            Err(waiting) => Err(ApiError::busy(format!(
                "{} answers are being made and {waiting} requests wait; try again later",
                self.most
            ))),
        }
    }

    fn share(&self, mut taken: OwnedSemaphorePermit) -> Vec<Permit> {
        let mut permits = Vec::new();
        while let Some(one) = taken.split(1) {
            permits.push(Permit::new(one, &self.metrics));
        }
        permits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(most: usize, waiting: usize) -> Arc<Admission> {
        let metrics = Arc::new(Metrics::new("m").unwrap());
        Arc::new(Admission::new(most, waiting, Duration::from_millis(50), metrics))
    }

    #[tokio::test]
    async fn who_waits_is_served_in_order_and_one_too_many_is_refused() {
        let admission = admission(2, 1);
        let both = admission.admit(2).await.unwrap();
        let waits = tokio::spawn({
            let admission = admission.clone();
            async move { admission.admit(1).await.map(|permits| permits.len()) }
        });
        tokio::task::yield_now().await;
        assert_eq!(admission.admit(1).await.err().unwrap().status, 429);
        drop(both);
        assert_eq!(waits.await.unwrap().unwrap(), 1);
        assert_eq!(admission.free.available_permits(), 2);
    }

    #[tokio::test]
    async fn waiting_ends_and_more_than_all_places_are_never_waited_for() {
        let admission = admission(1, 4);
        let _one = admission.admit(1).await.unwrap();
        let late = admission.admit(1).await.err().unwrap();
        assert!(late.message.contains("became free"), "{}", late.message);
        assert_eq!(admission.admit(2).await.err().unwrap().param.as_deref(), Some("n"));
        assert_eq!(admission.waiting.load(Ordering::Acquire), 0);
    }
}
