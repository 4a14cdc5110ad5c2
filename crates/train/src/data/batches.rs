use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::batch::Batch;
use super::cursor::{Cursor, Rules};
use super::options::{BatchOptions, check, fingerprint};
use super::sample::SampleReader;
use super::source::DataSource;
use super::state::{BatchesState, SourceState};
use super::window::{Window, Windows};
use crate::{Error, Result};

/// Batches of one or several sources, made ahead by threads of their own.
///
/// Their order depends on the files, the shares and the options only. [`Batches::state`] counts what was taken, not what was made ahead.
/// It ends after the first error.
#[derive(Debug)]
pub struct Batches {
    /// `None` once it is over.
    made: Option<Receiver<Made>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    sources: Arc<[DataSource]>,
    read: Vec<SourceState>,
    state: BatchesState,
}

/// A batch, with what holds once it is taken.
struct Made {
    batch: Result<Batch>,
    state: BatchesState,
    read: Vec<SourceState>,
}

impl Batches {
    /// Begins to make batches, from the start or from where others stood.
    ///
    /// # Errors
    /// [`Error::Option`] for sizes of 0, shares without sense, or a state that belongs to other files or options.
    pub fn start(
        sources: Vec<DataSource>,
        reader: impl Into<Arc<SampleReader>>,
        options: BatchOptions,
        state: Option<BatchesState>,
    ) -> Result<Self> {
        check(&options)?;
        let (sources, reader): (Arc<[DataSource]>, _) = (sources.into(), reader.into());
        let state = checked(state, &sources, fingerprint(&sources, &reader, &options))?;
        let stop = Arc::new(AtomicBool::new(false));
        let BatchOptions { shuffle, seed, epochs, strict, .. } = options;
        let rules = Rules { shuffle, seed, epochs, strict };
        let cursor = Cursor::new(Arc::clone(&sources), state.sources.clone(), rules)?;
        let windows = Windows::new(cursor, Arc::clone(&reader), options.clone(), state.window, Arc::clone(&stop));
        let (send_window, drawn) = sync_channel(0);
        let (send_batch, made) = sync_channel(options.prefetch);
        let maker = Maker { reader, options, state: state.clone(), made: send_batch };
        let threads = vec![
            spawn("training-lines", move || draw(windows, &send_window))?,
            spawn("training-batches", move || maker.run(&drawn))?,
        ];
        Ok(Self { made: Some(made), threads, stop, sources, read: state.sources.clone(), state })
    }

    /// Where the batches stand behind the last one that was taken.
    pub fn state(&self) -> &BatchesState {
        &self.state
    }

    /// The sources, each with what was read of it up to the end of the window that the last batch is from.
    pub fn sources(&self) -> impl Iterator<Item = (&DataSource, &SourceState)> {
        self.sources.iter().zip(&self.read)
    }

    /// Ends the threads; a panic of one is passed on.
    fn finish(&mut self) {
        self.made = None;
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let (Err(panic), false) = (thread.join(), std::thread::panicking()) {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let made = self.made.as_ref()?.recv().ok();
        let Some(Made { batch, state, read }) = made else {
            self.finish();
            return None;
        };
        (self.state, self.read) = (state, read);
        if batch.is_err() {
            self.finish();
        }
        Some(batch)
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The state to begin with: the given one, which must belong to the same data, or that of the start.
pub(super) fn checked(state: Option<BatchesState>, sources: &[DataSource], fingerprint: u32) -> Result<BatchesState> {
    let fresh =
        || BatchesState { sources: vec![SourceState::default(); sources.len()], fingerprint, ..Default::default() };
    let state = state.unwrap_or_else(fresh);
    match state.fingerprint == fingerprint && state.sources.len() == sources.len() {
        true => Ok(state),
        false => {
            let reason = "it belongs to other files, shares or options, expected those it was made with".into();
            Err(Error::Option { name: "state", reason })
        }
    }
}

/// Draws windows until nobody takes them.
fn draw(mut windows: Windows, drawn: &SyncSender<Result<Window>>) {
    while let Some(window) = windows.next().transpose() {
        let failed = window.is_err();
        if drawn.send(window).is_err() || failed {
            break;
        }
    }
}

/// Makes the batches of windows.
struct Maker {
    reader: Arc<SampleReader>,
    options: BatchOptions,
    state: BatchesState,
    made: SyncSender<Made>,
}

impl Maker {
    fn run(mut self, drawn: &Receiver<Result<Window>>) {
        while let Ok(window) = drawn.recv() {
            let goes_on = match window {
                Ok(window) => self.window(window),
                Err(error) => self.send(Err(error), self.state.sources.clone()),
            };
            if !goes_on {
                break;
            }
        }
    }

    /// Makes the batches of a window; false if nobody takes them any more.
    fn window(&mut self, window: Window) -> bool {
        let Window { index, start, end, batches } = window;
        let (taken, count) = (std::mem::take(&mut self.state.taken), batches.len() as u64);
        for (at, batch) in (0..).zip(batches).skip(taken as usize) {
            let items = batch.into_iter().map(|drawn| drawn.into_item(&self.reader, &self.options));
            let batch = items.collect::<Result<_>>().map(|items| Batch { items });
            // A window that is over is not read again to go on.
            let (window, taken, sources) = match at + 1 < count {
                true => (index, at + 1, &start),
                false => (index + 1, 0, &end),
            };
            let (batches, fingerprint) = (self.state.batches + 1, self.state.fingerprint);
            if batch.is_ok() {
                self.state = BatchesState { batches, window, taken, sources: sources.clone(), fingerprint };
            }
            if !self.send(batch, end.clone()) {
                return false;
            }
        }
        self.state.taken = 0;
        true
    }

    fn send(&self, batch: Result<Batch>, read: Vec<SourceState>) -> bool {
        let failed = batch.is_err();
        self.made.send(Made { batch, state: self.state.clone(), read }).is_ok() && !failed
    }
}

pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
    spawned.map_err(|source| omni_core::Error::Io { path: name.into(), source }.into())
}
