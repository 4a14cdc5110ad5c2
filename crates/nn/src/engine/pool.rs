//! Buffers that are reused from step to step: fresh memory costs as much time as filling it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cpu_kernels::{Activations, ExpertsScratch};

/// Most bytes that stay in a pool between calls; what a larger call took is freed.
pub(crate) const KEPT_BYTES: usize = 64 << 20;

/// Free buffers of one engine.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Mutex<Vec<Activations>>,
    experts: Mutex<Vec<ExpertsScratch>>,
}

impl Pool {
    /// Takes a buffer of rows `[rows, width]`; its values are unspecified.
    pub(crate) fn take(self: &Arc<Self>, rows: usize, width: usize) -> Buffer {
        let mut inner = self.fitting(rows * width);
        inner.fill(rows, width);
        Buffer { inner, pool: self.clone() }
    }

    /// The smallest free buffer that is large enough; otherwise the largest, which grows.
    fn fitting(&self, values: usize) -> Activations {
        let mut free = lock(&self.free);
        let enough = free.iter().enumerate().filter(|(_, buffer)| buffer.capacity() >= values);
        let best = enough.min_by_key(|(_, buffer)| buffer.capacity()).map(|(at, _)| at);
        let best = best.or_else(|| free.iter().enumerate().max_by_key(|(_, b)| b.capacity()).map(|(at, _)| at));
        best.map(|at| free.swap_remove(at)).unwrap_or_default()
    }

    /// Lends the working memory of one mixture of experts to `f`.
    pub(crate) fn with_experts<T>(&self, f: impl FnOnce(&mut ExpertsScratch) -> T) -> T {
        let mut memory = lock(&self.experts).pop().unwrap_or_default();
        let result = f(&mut memory);
        lock(&self.experts).push(memory);
        result
    }

    /// Bytes of free buffers.
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.free).iter().map(Activations::bytes).sum::<usize>()
            + lock(&self.experts).iter().map(ExpertsScratch::bytes).sum::<usize>()
    }

    /// Frees the largest buffers until no more than `bytes` are kept.
    pub(crate) fn trim(&self, bytes: usize) {
        let mut held = self.bytes();
        if held <= bytes {
            return;
        }
        lock(&self.experts).clear();
        let mut free = lock(&self.free);
        free.sort_unstable_by_key(Activations::bytes);
        held = free.iter().map(Activations::bytes).sum();
        while held > bytes {
            held -= free.pop().map_or(held, |largest| largest.bytes());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer that goes back to its pool when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    inner: Activations,
    pool: Arc<Pool>,
}

impl Deref for Buffer {
    type Target = Activations;

    fn deref(&self) -> &Activations {
        &self.inner
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Activations {
        &mut self.inner
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        lock(&self.pool.free).push(std::mem::take(&mut self.inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_the_one_that_fits_best_is_taken() {
        let pool = Arc::new(Pool::default());
        let large = pool.take(100, 100);
        let small = pool.take(10, 10);
        let addresses = [&large, &small].map(|buffer| buffer.plain().as_ptr());
        drop((large, small));
        let [again_small, again_large] = [pool.take(5, 20), pool.take(50, 100)];
        assert_eq!([again_large.plain().as_ptr(), again_small.plain().as_ptr()], addresses);
    }

    #[test]
    fn what_a_large_call_took_is_given_back() {
        let pool = Arc::new(Pool::default());
        drop((pool.take(1000, 1000), pool.take(10, 1000)));
        assert!(pool.bytes() >= 4_040_000);
        pool.trim(1_000_000);
        assert!((40_000..1_000_000).contains(&pool.bytes()), "{}", pool.bytes());
        pool.trim(0);
        assert_eq!(pool.bytes(), 0);
    }
}
