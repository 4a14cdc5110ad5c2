//! How far writing has come: a bar where somebody watches, a line now and then where it goes to a file.

use std::fmt::{self, Display};
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use omni_core::{Error, Result};

use super::interrupt::Busy;
use super::terminal::note;
use crate::Progress;

/// Time between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// Shows progress on standard error and stops when the program is interrupted.
#[derive(Debug)]
pub struct Watch<'a> {
    out: &'a Path,
    busy: Busy,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines(Lines),
}

impl<'a> Watch<'a> {
    /// Begins to watch the writing of a directory.
    ///
    /// # Errors
    /// The errors of [`Busy::begin`].
    pub fn begin(out: &'a Path) -> Result<Self> {
        let shown = if stderr().is_terminal() { Shown::Bar(bar()) } else { Shown::Lines(Lines::new(Instant::now())) };
        Ok(Self { out, busy: Busy::begin()?, shown })
    }

    /// Shows how far writing has come.
    ///
    /// # Errors
    /// [`Error::Io`] naming the directory once the program was interrupted.
    pub fn show(&mut self, progress: Progress) -> Result<()> {
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_length(progress.total);
                bar.set_position(progress.bytes);
            }
            Shown::Lines(lines) => {
                if let Some(line) = lines.line(progress, Instant::now()) {
                    note(format_args!("{}: {line}", self.out.display()));
                }
            }
        }
        match self.busy.is_asked() {
            false => Ok(()),
            true => Err(Error::io(self.out, std::io::Error::other("interrupted; the same command resumes"))),
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    ProgressBar::new(0).with_style(ProgressStyle::with_template(template).expect("a valid template"))
}

/// When the last line was due.
#[derive(Debug)]
struct Lines {
    begun: Instant,
    last: Option<Instant>,
}

impl Lines {
    fn new(begun: Instant) -> Self {
        Self { begun, last: None }
    }

    /// The next line, if it is due: at the beginning, after a pause, and at the end.
    fn line(&mut self, Progress { bytes, total }: Progress, now: Instant) -> Option<Line> {
        let paused = self.last.is_none_or(|last| now.duration_since(last) >= PAUSE);
        if !paused && bytes < total {
            return None;
        }
        self.last = Some(now);
        Some(Line { bytes, total, seconds: now.duration_since(self.begun).as_secs_f64() })
    }
}

struct Line {
    bytes: u64,
    total: u64,
    seconds: f64,
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [done, total] = [self.bytes, self.total].map(|bytes| bytes as f64 / 1e6);
        let share = if self.total == 0 { 100.0 } else { 100.0 * done / total };
        // 100 % is said of what is whole only.
        write!(f, "{:.0} %, {done:.1} of {total:.1} MB, {:.0} s", share.floor(), self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_at_the_beginning_after_a_pause_and_at_the_end() {
        let begun = Instant::now();
        let mut lines = Lines::new(begun);
        let mut at = |bytes: u64, seconds: u64| {
            let line = lines.line(Progress { bytes, total: 8_000_000 }, begun + Duration::from_secs(seconds));
            line.map(|line| line.to_string())
        };
        assert_eq!(at(0, 0).unwrap(), "0 %, 0.0 of 8.0 MB, 0 s");
        assert_eq!((at(1_000_000, 1), at(2_000_000, 9)), (None, None));
        assert_eq!(at(7_999_999, 10).unwrap(), "99 %, 8.0 of 8.0 MB, 10 s");
        assert_eq!(at(7_999_999, 19), None);
        assert_eq!(at(8_000_000, 19).unwrap(), "100 %, 8.0 of 8.0 MB, 19 s");
    }
}
