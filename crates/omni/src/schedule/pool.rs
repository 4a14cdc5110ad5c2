use omni_core::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The CPU threads that a model computes with: a pool of its own, or that of the process.
pub(crate) struct CpuPool(Option<ThreadPool>);

impl CpuPool {
    /// Makes a pool of `count` threads; `None` for the pool of the process.
    pub(crate) fn new(count: Option<usize>) -> Result<Self> {
        let Some(count) = count else { return Ok(Self(None)) };
        if count == 0 {
            return Err(Error::Request("0 threads were asked for, expected at least 1".into()));
        }
        let name = |index| format!("qwen3-omni cpu {index}");
        let pool = ThreadPoolBuilder::new().num_threads(count).thread_name(name).build();
        pool.map(|pool| Self(Some(pool))).map_err(|error| Error::Device(format!("{count} threads: {error}")))
    }

    /// Runs `f` on these threads, in the tracing span of the caller.
    pub(crate) fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        match &self.0 {
            Some(pool) => {
                let span = tracing::Span::current();
                pool.install(|| span.in_scope(f))
            }
            None => f(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_on_the_requested_threads_and_zero_is_an_error() {
        for count in [1, 3] {
            let pool = CpuPool::new(Some(count)).unwrap();
            assert_eq!(pool.run(rayon::current_num_threads), count);
        }
        let message = CpuPool::new(Some(0)).err().unwrap().to_string();
        assert!(message.contains("0 threads") && message.contains("at least 1"), "{message}");
    }
}
