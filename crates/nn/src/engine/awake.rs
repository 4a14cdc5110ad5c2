//! Pool threads that stay awake during a step.
//!
//! A thread of the pool that finds no work falls asleep after some 20 µs, which is less than what is computed on one thread between two
//! parallel loops of a step. Waking it takes another 20 to 40 µs, and a decode step has hundreds of loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Steps that are being computed, by any engine.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// A step, until it is dropped.
struct Step {
    over: Arc<AtomicBool>,
}

impl Step {
    fn begin() -> Self {
        RUNNING.fetch_add(1, Ordering::Relaxed);
        Self { over: Arc::default() }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether exactly one step is being computed. With several, threads have work enough, and one that waits for work of its own step must
/// not be kept by another step.
fn is_alone() -> bool {
    RUNNING.load(Ordering::Relaxed) == 1
}

/// Runs a step on this thread, which belongs to a pool, while the pool's other threads look for work without falling asleep.
pub(super) fn run<T>(step: impl FnOnce() -> T) -> T {
    let begun = Step::begin();
    let own = rayon::current_thread_index();
    if is_alone() {
        for _ in 1..rayon::current_num_threads() {
            let over = begun.over.clone();
            rayon::spawn(move || {
                // The thread of the step takes this job only if no other thread did.
                if rayon::current_thread_index() != own {
                    look_for_work(&over);
                }
            });
        }
    }
    step()
}

fn look_for_work(over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) && is_alone() {
        if rayon::yield_now() != Some(rayon::Yield::Executed) {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn steps_end_with_their_results_whatever_runs_beside_them_or_panics() {
        let sum = || (0..1000_u64).into_par_iter().sum::<u64>();
        std::thread::scope(|threads| {
            for at in 0..4 {
                threads.spawn(move || {
                    for round in 0..200 {
                        let nested = || run(|| sum() + run(sum));
                        assert_eq!(rayon::scope(|_| nested()), 2 * 499_500);
                        if round % 50 == at {
                            let broken = || rayon::scope(|_| run(|| panic!("in a step")));
                            assert!(std::panic::catch_unwind(broken).is_err());
                        }
                    }
                });
            }
        });
        // Other tests may be computing.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while RUNNING.load(Ordering::Relaxed) > 0 {
            assert!(std::time::Instant::now() < until, "a step is not counted as over");
            std::thread::yield_now();
        }
    }
}
