//! Standard output and standard error, which may be closed, full or watched by nobody.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use omni_core::{Error, Result};

/// Standard output. What a command does and the code it exits with do not depend on whether anybody reads what it says.
#[derive(Debug, Default)]
pub struct Output {
    /// The first error; after it, nothing more is written.
    failed: RefCell<Option<std::io::Error>>,
}

impl Output {
    /// Writes a line.
    pub fn line(&self, text: impl Display) {
        let mut failed = self.failed.borrow_mut();
        if failed.is_none() {
            *failed = writeln!(std::io::stdout(), "{text}").err();
        }
    }

    /// Writes text that does not end a line, for a reader who waits for it.
    pub fn text(&self, text: impl Display) {
        let mut failed = self.failed.borrow_mut();
        if failed.is_none() {
            let mut stdout = std::io::stdout();
            *failed = write!(stdout, "{text}").and_then(|()| stdout.flush()).err();
        }
    }

    /// Whether everything could be written so far.
    pub fn is_open(&self) -> bool {
        self.failed.borrow().is_none()
    }

    /// Writes a value as JSON.
    ///
    /// # Panics
    /// If the value cannot be written as JSON, as a map whose keys are no strings.
    pub fn json(&self, value: &impl serde::Serialize) {
        self.line(serde_json::to_string_pretty(value).expect("reports can be written as JSON"));
    }

    /// Ends the output.
    ///
    /// # Errors
    /// [`Error::Io`] if a part of it could not be written, unless the reader has gone, as `head` does.
    pub fn finish(self) -> Result<()> {
        let failed = self.failed.into_inner().or_else(|| std::io::stdout().flush().err());
        match failed.filter(|error| error.kind() != ErrorKind::BrokenPipe) {
            None => Ok(()),
            Some(source) => Err(Error::io("standard output", source)),
        }
    }
}

/// Writes a formatted line to an [`Output`].
macro_rules! say {
    ($out:expr, $($text:tt)*) => {
        $out.line(format_args!($($text)*))
    };
}
pub(crate) use say;

/// Writes a line to standard error, if it can be written.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints help, the version, or what is wrong with a program's arguments; returns the code it exits with.
pub fn usage(told: &clap::Error) -> ExitCode {
    match told.print() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => ExitCode::from(2),
        _ => ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2)),
    }
}
