//! How many answers may be in the making at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use omni_core::{Error, Result};

/// Places for answers.
pub(crate) struct Places {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

/// The place of one answer, given back when it is dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Places {
    pub(crate) fn new(limit: usize) -> Self {
        Self { taken: Arc::default(), limit }
    }

    /// # Errors
    /// [`Error::Busy`] if all are taken.
    pub(crate) fn take(&self) -> Result<Place> {
        let next = |taken| (taken < self.limit).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(_) => Ok(Place(self.taken.clone())),
            Err(running) => Err(Error::Busy { running, limit: self.limit }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_and_a_place_is_given_back() {
        let places = Places::new(2);
        let (first, _second) = (places.take().unwrap(), places.take().unwrap());
        let error = places.take().err().unwrap();
        assert!(matches!(error, Error::Busy { running: 2, limit: 2 }), "{error}");
        let message = error.to_string();
        assert!(message.contains("2 answers are being made") && message.contains("no more than 2"), "{message}");
        drop(first);
        assert!(places.take().is_ok());
    }
}
