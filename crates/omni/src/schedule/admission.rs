//! Admission: a limit on the answers that are generated at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use omni_core::{Error, Result};

/// Hands out permits, one per answer, up to a limit.
pub(crate) struct Admission {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

/// The permit of one answer, returned when it is dropped.
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Admission {
    pub(crate) fn new(limit: usize) -> Self {
        Self { taken: Arc::default(), limit }
    }

    /// Takes a permit.
    ///
    /// # Errors
    /// [`Error::Busy`] if all permits are taken.
    pub(crate) fn admit(&self) -> Result<Permit> {
        let next = |taken| (taken < self.limit).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(_) => Ok(Permit(self.taken.clone())),
            Err(running) => Err(Error::Busy { running, limit: self.limit }),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_and_a_permit_is_returned() {
        let admission = Admission::new(2);
        let (first, _second) = (admission.admit().unwrap(), admission.admit().unwrap());
        let error = admission.admit().err().unwrap();
        assert!(matches!(error, Error::Busy { running: 2, limit: 2 }), "{error}");
        let message = error.to_string();
        assert!(message.contains("2 answers are being made") && message.contains("no more than 2"), "{message}");
        drop(first);
        assert!(admission.admit().is_ok());
    }
}
