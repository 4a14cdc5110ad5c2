//! A gate that admits one holder at a time and whose waiters can be cancelled.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often a waiter checks whether it was cancelled.
const POLL: Duration = Duration::from_millis(5);

/// Lets one answer at a time encode its media. An encoder uses all threads: several at once only delay each other, and a cancelled one
/// would have to wait for its share of the processors before it could notice.
#[derive(Default)]
pub(crate) struct Gate {
    is_taken: Mutex<bool>,
    freed: Condvar,
}

/// The right to pass, until it is dropped.
pub(crate) struct Turn<'a>(&'a Gate);

impl Gate {
    /// Waits for the turn; `None` if `stopped` says so before it comes.
    pub(crate) fn enter(&self, stopped: &dyn Fn() -> bool) -> Option<Turn<'_>> {
        let mut is_taken = self.is_taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *is_taken {
            if stopped() {
                return None;
            }
            is_taken = self.freed.wait_timeout(is_taken, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        *is_taken = true;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.is_taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_passes_at_a_time_and_a_cancelled_waiter_leaves() {
        let (gate, inside, passed) = (Gate::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _turn = gate.enter(&|| false).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        passed.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(passed.load(Ordering::SeqCst), 200);
        let turn = gate.enter(&|| true).unwrap();
        assert!(gate.enter(&|| true).is_none());
        drop(turn);
        assert!(gate.enter(&|| true).is_some());
    }
}
