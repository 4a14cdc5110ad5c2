//! The program's commands.

mod aut;
mod checks;
mod codec;
mod distill;
mod pairs;
mod plot;
mod rewards;
mod settings;
mod stage;
mod verify;

use std::fmt::Arguments;
use std::io::Write;

pub(crate) use aut::AutCommand;
pub(crate) use codec::{CodecCommand, EncodeCommand};
pub(crate) use distill::{DistillCommand, TeachCommand};
pub(crate) use pairs::PairsCommand;
pub(crate) use plot::Plot;
pub(crate) use settings::Settings;
pub(crate) use stage::{DpoCommand, GspoCommand, SftCommand, TalkerCommand};
pub(crate) use verify::Verify;

/// Writes a line to standard error; nobody reading it is no failure.
pub(crate) fn note(line: Arguments) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes a line to standard output; a closed pipe ends the output, not the work.
fn say(line: Arguments) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
