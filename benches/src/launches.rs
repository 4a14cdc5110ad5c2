//! Counts the kernels that a piece of work launches on a GPU.

/// Runs `work` and counts the kernels it launches; `None` in a build without GPUs.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub fn counted<T>(work: impl FnOnce() -> T) -> (T, Option<usize>) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use cubecl_runtime::logging::{LaunchObservation, LaunchObserver};

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl LaunchObserver for Counter {
        fn launched(&self, _: &'static str) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    let counter = Arc::new(Counter::default());
    let watching = LaunchObservation::new(counter.clone());
    let result = work();
    drop(watching);
    (result, Some(counter.0.load(Ordering::Relaxed)))
}

/// Runs `work` without counting: this build has no GPUs.
#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
pub fn counted<T>(work: impl FnOnce() -> T) -> (T, Option<usize>) {
    (work(), None)
}
