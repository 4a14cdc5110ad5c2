//! What the `gpu_check` program does: correctness and speed on a device, one JSON object per finding.

pub mod latency;
pub mod machine;
pub mod nano;
pub mod parity;
pub mod parts;
pub mod report;

use std::panic::{AssertUnwindSafe, catch_unwind};

use omni_core::{Error, Result};

/// Runs work in which a failing device may panic.
///
/// # Errors
/// What `work` returns, or [`Error::Device`] with the panic's message.
pub fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(Error::Device(format!("panicked: {}", first_line(text.unwrap_or("no message")))))
    })
}

/// The beginning of a message, for a table.
pub fn first_line(text: &str) -> String {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().chars().take(300).collect()
}
