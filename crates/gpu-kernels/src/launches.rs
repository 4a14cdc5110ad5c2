//! How many kernels a piece of work launches: what it costs a GPU beside reading memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cubecl::logging::{LaunchObservation, LaunchObserver};

/// Kernels launched, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Launches(pub BTreeMap<&'static str, usize>);

impl Launches {
    /// Number of launches of all kernels.
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }
}

#[derive(Default)]
struct Counter(Mutex<Launches>);

impl LaunchObserver for Counter {
    fn launched(&self, kernel: &'static str) {
        if let Ok(mut launches) = self.0.lock() {
            *launches.0.entry(kernel).or_default() += 1;
        }
    }
}

/// Runs `work` and counts the kernels that are launched meanwhile, by any thread of the process.
pub fn counted<T>(work: impl FnOnce() -> T) -> (T, Launches) {
    let counter = Arc::new(Counter::default());
    let watching = LaunchObservation::new(counter.clone());
    let result = work();
    drop(watching);
    let launches = counter.0.lock().map(|launches| launches.clone()).unwrap_or_default();
    (result, launches)
}
