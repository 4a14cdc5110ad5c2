//! Calls of the tokenizers library. Some configurations make it panic; that must not end the program.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls the tokenizers library, and turns a panic into an error.
pub(super) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("the tokenizer's configuration is damaged: {}", text.unwrap_or("unknown")).into())
    })
}
