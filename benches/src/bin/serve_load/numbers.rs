//! Quantiles, and the memory of this process.

use serde_json::{Value, json};

/// Median, 95th and 99th percentile and maximum.
pub(crate) fn quantiles(values: &mut [f64]) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        values.get(((values.len() as f64 - 1.0) * share).round() as usize).map(|value| (value * 1e3).round() / 1e3)
    };
    json!({"p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": values.last(), "count": values.len()})
}

/// Megabytes of memory that this process holds; 0 where the system does not tell.
pub(crate) fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
