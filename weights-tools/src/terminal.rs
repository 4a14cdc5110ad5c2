//! Standard output and standard error, which may be closed, full or watched by nobody.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{ErrorKind, Write};

use omni_core::{Error, Result};

/// Standard output. What a command does and the code it exits with do not depend on whether anybody reads what it says.
#[derive(Default)]
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

    /// Writes a value as JSON.
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
