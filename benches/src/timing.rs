//! Repeats a measurement until it has enough runs or its time is spent.

use std::time::Instant;

use burn::tensor::Tensor;
use omni_core::{Error, Result};

/// Waits until a device has computed `result`, and returns its first value.
///
/// The value must be touched: on a GPU work is only queued, and `into_data` alone returns before any of it has run.
///
/// # Errors
/// [`Error::Device`] if the device failed.
pub fn wait(result: Tensor<1>) -> Result<f32> {
    let first = result.narrow(0, 0, 1).try_into_scalar::<f32>();
    first.map_err(|error| Error::Device(format!("the device did not finish: {error}")))
}

/// Milliseconds of each run, sorted; a first run is not counted. At least 3 runs, whatever the time.
///
/// # Errors
/// The first error that `work` returns.
pub fn timed(mut work: impl FnMut() -> Result<()>, runs: usize, budget_s: f64) -> Result<Vec<f64>> {
    let mut once = || -> Result<f64> {
        let started = Instant::now();
        work()?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    };
    once()?;
    let (mut times, started) = (Vec::new(), Instant::now());
    while times.len() < runs && (times.len() < 3 || started.elapsed().as_secs_f64() < budget_s) {
        times.push(once()?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The middle of sorted times; the mean of the two middle ones if their number is even.
pub fn median(times: &[f64]) -> f64 {
    let middle = times.len() / 2;
    if times.len().is_multiple_of(2) { (times[middle - 1] + times[middle]) / 2.0 } else { times[middle] }
}

/// A number rounded to `digits` after the point.
pub fn rounded(value: f64, digits: i32) -> f64 {
    (value * 10f64.powi(digits)).round() / 10f64.powi(digits)
}

/// Processor time of this process's threads, in seconds: what a step costs, whatever else the machine does. Wall-clock time where the
/// system does not report it.
pub fn cpu_seconds() -> f64 {
    let of_task = |task: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    match tasks.filter_map(of_task).reduce(|a, b| a + b) {
        Some(nanoseconds) => nanoseconds as f64 / 1e9,
        None => {
            static STARTED: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
            STARTED.get_or_init(Instant::now).elapsed().as_secs_f64()
        }
    }
}
