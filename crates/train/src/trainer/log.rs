use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::io;
use crate::Result;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Number of the step, from 1.
    pub step: usize,
    /// Seconds of training before and in it, those before a resume included.
    pub seconds: f64,
    /// Learning rate.
    pub rate: f64,
    /// Loss.
    pub loss: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Tokens of the step.
    pub tokens: usize,
    /// Rows that carried loss.
    pub rows: usize,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
    /// Whether the step was left out.
    pub skipped: bool,
    /// Further values, as `ce` and `aux`.
    #[serde(flatten)]
    pub parts: BTreeMap<String, f64>,
}

impl StepLine {
    /// Whether another line says the same but for times, which differ from run to run.
    pub fn same_but_for_time(&self, other: &Self) -> bool {
        let timeless = |line: &Self| Self { seconds: 0.0, tokens_per_second: 0.0, ..line.clone() };
        timeless(self) == timeless(other)
    }
}

/// The log of a run: one JSON object a line.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log for a run that begins after `step`: lines of later steps, which will be taken again, are removed.
    ///
    /// # Errors
    /// [`omni_core::Error::Io`] naming the file.
    pub fn open(path: &Path, step: usize) -> Result<Self> {
        let before = if path.exists() { std::fs::read_to_string(path).map_err(io(path))? } else { String::new() };
        // Lines are kept as they were written: numbers that are read and written again may differ in their last digit.
        let earlier = |line: &&str| serde_json::from_str::<StepLine>(line).is_ok_and(|line| line.step <= step);
        let text: String = before.lines().filter(earlier).flat_map(|line| [line, "\n"]).collect();
        std::fs::write(path, text).map_err(io(path))?;
        let file = OpenOptions::new().append(true).open(path).map_err(io(path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Reads the lines of a log; a last line that a kill cut short is left out.
    ///
    /// # Errors
    /// [`omni_core::Error::Io`] naming the file.
    pub fn read(path: &Path) -> Result<Vec<StepLine>> {
        let text = std::fs::read_to_string(path).map_err(io(path))?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`omni_core::Error::Io`] naming the file.
    pub fn add(&mut self, line: &StepLine) -> Result<()> {
        self.file.write_all(json(line).as_bytes()).map_err(io(&self.path))
    }
}

fn json(line: &StepLine) -> String {
    let mut json = serde_json::to_string(line).unwrap_or_default();
    json.push('\n');
    json
}
