//! The parts of the model one by one; one that fails does not stop the others.

use omni_core::Result;
use serde_json::{Value, json};

use super::{first_line, guarded};
use crate::parts::{Arguments, Bench};

/// Times all parts; returns whether none failed.
///
/// # Errors
/// If the device cannot be opened.
pub fn run(arguments: &Arguments, emit: &dyn Fn(Value)) -> Result<bool> {
    let emit = |mut line: Value| {
        line["kind"] = json!("part");
        emit(line);
    };
    let bench = Bench::new(arguments, &emit)?;
    let mut passed = true;
    for part in &arguments.only {
        if let Err(error) = guarded(|| bench.part(part)) {
            passed = false;
            let (dtype, device) = (&arguments.dtype.name, arguments.device.to_string());
            emit(json!({"part": part, "dtype": dtype, "device": device, "error": first_line(&error.to_string())}));
        }
    }
    Ok(passed)
}
