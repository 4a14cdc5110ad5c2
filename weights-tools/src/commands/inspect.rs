//! The command that reports what a checkpoint is: its options and its table.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use omni_core::Result;

use super::terminal::{Output, say};
use crate::inspect::{self, ComponentSummary, Inspection};

/// Report what a checkpoint is, and what is missing or odd about it
#[derive(Debug, Args)]
pub struct Inspect {
    /// Checkpoint directory
    directory: PathBuf,
    /// Compare with this list of tensors instead of the checkpoint's own config
    #[arg(long, value_enum, default_value = "config")]
    expect: Expect,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Expect {
    Config,
    Released,
}

impl From<Expect> for inspect::Expect {
    fn from(expect: Expect) -> Self {
        match expect {
            Expect::Config => inspect::Expect::Config,
            Expect::Released => inspect::Expect::Released,
        }
    }
}

impl Inspect {
    /// Inspects, and returns whether nothing is missing or odd.
    ///
    /// # Errors
    /// The errors of [`inspect::inspect`].
    pub fn run(self, out: &Output) -> Result<bool> {
        let found = inspect::inspect(&self.directory, self.expect.into())?;
        match self.json {
            true => out.json(&found),
            false => self.print(&found, out),
        }
        Ok(found.odd.is_empty())
    }

    fn print(&self, found: &Inspection, out: &Output) {
        let (directory, dtype) = (self.directory.display(), found.config_dtype.as_deref().unwrap_or("not said"));
        say!(out, "{directory}: Qwen3-Omni {}, {} shards, number type {dtype}", found.variant, found.shards);
        print_parts(&found.components, out);
        print_needs(&found.components, out);
        match found.odd.is_empty() {
            true => say!(out, "nothing missing, nothing odd"),
            false => found.odd.iter().for_each(|line| say!(out, "{line}")),
        }
    }
}

/// Prints what lies on disk of each part.
fn print_parts(components: &[ComponentSummary], out: &Output) {
    say!(out, "{:16} {:>8} {:>16} {:>12}  types", "component", "tensors", "parameters", "bytes");
    for part in components {
        let kinds = part.dtypes.iter().chain(&part.packed);
        let types: Vec<String> = kinds.map(|(name, count)| format!("{name} ×{count}")).collect();
        let (tensors, parameters, bytes) = (part.tensors, part.parameters, part.bytes);
        say!(out, "{:16} {tensors:>8} {parameters:>16} {bytes:>12}  {}", part.component, types.join(", "));
    }
    let sums = components.iter().fold((0, 0, 0), |s, c| (s.0 + c.tensors, s.1 + c.parameters, s.2 + c.bytes));
    say!(out, "{:16} {:>8} {:>16} {:>12}", "all", sums.0, sums.1, sums.2);
}

/// Prints what each part takes when it is loaded.
fn print_needs(components: &[ComponentSummary], out: &Output) {
    say!(out, "\n{:16} {:>14} {:>14} {:>14}", "bytes loaded", "CPU, held", "CPU, mapped", "other device");
    let mut sums = [0; 3];
    for part in components {
        let needs = [part.cpu_held, part.cpu_mapped, part.device_held];
        sums.iter_mut().zip(needs).for_each(|(sum, need)| *sum += need);
        say!(out, "{:16} {:>14} {:>14} {:>14}", part.component, needs[0], needs[1], needs[2]);
    }
    say!(out, "{:16} {:>14} {:>14} {:>14}\n", "all", sums[0], sums[1], sums[2]);
}
