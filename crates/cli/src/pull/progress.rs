//! How far a download has come.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::rc::Rc;

use indicatif::{ProgressBar, ProgressStyle};
use weights_tools::commands::note;

/// A progress bar on a terminal, one line per file elsewhere. Clones share their state.
#[derive(Clone)]
pub struct Progress {
    name: String,
    bar: ProgressBar,
    counts: Rc<Counts>,
}

#[derive(Default)]
struct Counts {
    size: Cell<u64>,
    /// The most bytes that lay on the disk.
    received: Cell<u64>,
}

/// A progress bar of bytes.
pub fn bar(name: String, size: u64) -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("a valid template");
    ProgressBar::new(size).with_style(style).with_message(name)
}

impl Progress {
    pub fn new(name: String) -> Self {
        Self { bar: bar(name.clone(), 0), name, counts: Rc::default() }
    }

    /// Bytes that came so far, in all attempts.
    pub fn received(&self) -> u64 {
        self.counts.received.get()
    }
}

impl hf_hub::api::Progress for Progress {
    /// Called before each attempt; what was there before comes as an update.
    fn init(&mut self, size: usize, _: &str) {
        self.counts.size.set(size as u64);
        self.bar.set_length(size as u64);
        self.bar.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.bar.inc(size as u64);
        self.counts.received.set(self.counts.received.get().max(self.bar.position()));
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
        if !stderr().is_terminal() {
            note(format_args!("{}, {:.1} MB", self.name, self.counts.size.get() as f64 / 1e6));
        }
    }
}
