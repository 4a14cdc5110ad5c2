//! `qwen3-omni-eval`: how good a model is.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A program owns the terminal.

mod program;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;
use qwen3_omni_eval::{Error, Result};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = program::Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,symphonia_core=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).without_time().with_target(false).init();
    match arguments.run().and_then(|told| print(&told)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints to a reader who may have gone.
fn print(text: &str) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(source) if source.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Io { path: "standard output".into(), source })
        }
        _ => Ok(()),
    }
}
