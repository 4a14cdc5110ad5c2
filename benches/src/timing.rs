//! Repeats a measurement until it has enough runs or its time is spent.

use std::time::Instant;

/// Milliseconds of each run; a first run is not counted.
pub(crate) fn timed(mut work: impl FnMut(), runs: usize, budget_s: f64) -> Vec<f64> {
    let mut once = || {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64() * 1e3
    };
    once();
    let (mut times, started) = (Vec::new(), Instant::now());
    while times.len() < runs && (times.len() < 3 || started.elapsed().as_secs_f64() < budget_s) {
        times.push(once());
    }
    times.sort_by(f64::total_cmp);
    times
}

/// The middle of sorted times; the mean of the two middle ones if their number is even.
pub(crate) fn median(times: &[f64]) -> f64 {
    let middle = times.len() / 2;
    if times.len().is_multiple_of(2) { (times[middle - 1] + times[middle]) / 2.0 } else { times[middle] }
}
