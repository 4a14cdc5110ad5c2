//! Segments of recordings: what the codec is trained on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::batches::{checked, spawn};
use super::cursor::{Cursor, Rules};
use super::line::SpeechTarget;
use super::location::Location;
use super::order::permutation;
use super::recording::{RecordingLine, read_recording};
use super::source::DataSource;
use super::state::{BatchesState, SourceState};
use crate::random::{Draws, Purpose};
use crate::{Error, Result};

/// How recordings become segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentOptions {
    /// Codec frames of a segment.
    pub frames: usize,
    /// Samples per codec frame.
    pub samples_per_frame: usize,
    /// Samples per second.
    pub sample_rate: u32,
    /// Segments of a batch.
    pub per_batch: usize,
    /// Decides the order, with the epoch, and where segments are cut from.
    pub seed: u64,
    /// Whether the first bad line ends the segments with its error; otherwise it is dropped, counted and reported as a warning.
    pub strict: bool,
}

/// A piece of sound of one length, out of one recording or of several short ones after one another.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Samples of one channel.
    pub samples: Vec<f32>,
    /// Where the recordings stand, as `file:line, …`.
    pub origin: String,
}

/// Batches of segments, made ahead by a thread of their own.
///
/// A recording that is longer than a segment gives about as many as fit into it, each cut at random; shorter ones are joined, each
/// beginning with a codec frame. The order depends on the files, the shares and the options only.
#[derive(Debug)]
pub struct Segments {
    made: Option<Receiver<Result<Window>>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    options: SegmentOptions,
    /// Batches of the present window that were not taken.
    left: VecDeque<Vec<Segment>>,
    /// The sources at the present window's start and end.
    ends: [Vec<SourceState>; 2],
    state: BatchesState,
}

/// Segments that are shuffled together.
#[derive(Debug)]
struct Window {
    ends: [Vec<SourceState>; 2],
    segments: Vec<Segment>,
}

/// Batches of a window; fewer where their samples would take more memory than [`MOST_SAMPLES`].
const WINDOW: usize = 64;
const MOST_SAMPLES: usize = 1 << 26;

impl SegmentOptions {
    fn samples(&self) -> usize {
        self.frames * self.samples_per_frame
    }

    fn batches_per_window(&self) -> usize {
        WINDOW.min(MOST_SAMPLES / (self.per_batch * self.samples())).max(1)
    }

    fn check(&self) -> Result<()> {
        let Self { frames, samples_per_frame, sample_rate, per_batch, .. } = *self;
        let sizes = [
            ("frames", frames),
            ("samples_per_frame", samples_per_frame),
            ("sample_rate", sample_rate as usize),
            ("per_batch", per_batch),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(Error::Option { name, reason: "0, expected 1 or more".into() });
        }
        let all = frames.checked_mul(samples_per_frame).and_then(|samples| samples.checked_mul(per_batch));
        match all.is_some_and(|samples| samples <= 1 << 30) {
            true => Ok(()),
            false => {
                let reason = format!("{frames}, with {per_batch} segments of a batch: more than 2^30 samples");
                Err(Error::Option { name: "frames", reason })
            }
        }
    }

    fn fingerprint(&self, sources: &[DataSource]) -> u32 {
        let sources: Vec<_> =
            sources.iter().map(|source| (source.name(), source.share().to_bits(), source.lines())).collect();
        let Self { frames, samples_per_frame, sample_rate, per_batch, seed, .. } = self;
        let sizes = (frames, samples_per_frame, sample_rate, per_batch);
        crc32fast::hash(format!("segments {sources:?} {sizes:?} {seed}").as_bytes())
    }
}

impl Segments {
    /// Begins to cut segments, from the start or from where others stood.
    ///
    /// # Errors
    /// [`Error::Option`] for sizes of 0, shares without sense, or a state that belongs to other files or options.
    pub fn start(sources: Vec<DataSource>, options: SegmentOptions, state: Option<BatchesState>) -> Result<Self> {
        options.check()?;
        let sources: Arc<[DataSource]> = sources.into();
        let state = checked(state, &sources, options.fingerprint(&sources))?;
        let rules = Rules { shuffle: true, seed: options.seed, epochs: None, strict: options.strict };
        let stop = Arc::new(AtomicBool::new(false));
        let cursor = Cursor::new(sources, state.sources.clone(), rules)?;
        let cutter = Cutter { cursor, options, window: state.window, stop: Arc::clone(&stop) };
        let (send, made) = sync_channel(0);
        let thread = Some(spawn("training-segments", move || cutter.run(&send))?);
        let (left, ends) = (VecDeque::new(), [Vec::new(), Vec::new()]);
        Ok(Self { made: Some(made), thread, stop, options, left, ends, state })
    }

    /// Where the batches stand behind the last one that was taken.
    pub fn state(&self) -> &BatchesState {
        &self.state
    }

    /// Takes the next window, without the batches of it that were taken before.
    fn next_window(&mut self) -> Option<Result<()>> {
        let made = self.made.as_ref()?.recv().ok();
        let Some(Ok(Window { ends, segments })) = made else {
            self.finish();
            return made.map(|failed| failed.map(drop));
        };
        let order = permutation(segments.len() as u32, Purpose::Segments, &[self.options.seed, self.state.window]);
        let mut segments: Vec<Option<Segment>> = segments.into_iter().map(Some).collect();
        let mut shuffled = order.into_iter().filter_map(|at| segments[at as usize].take());
        let batch = |_| shuffled.by_ref().take(self.options.per_batch).collect();
        let batches: Vec<Vec<Segment>> = (0..self.options.batches_per_window()).map(batch).collect();
        self.left = batches.into_iter().skip(self.state.taken as usize).collect();
        self.ends = ends;
        Some(Ok(()))
    }

    /// Ends the thread; a panic of it is passed on.
    fn finish(&mut self) {
        self.made = None;
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let (Err(panic), false) = (thread.join(), std::thread::panicking())
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Iterator for Segments {
    type Item = Result<Vec<Segment>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty()
            && let Err(error) = self.next_window()?
        {
            return Some(Err(error));
        }
        let batch = self.left.pop_front()?;
        let [start, end] = &self.ends;
        let (window, taken, sources) = match self.left.is_empty() {
            false => (self.state.window, self.state.taken + 1, start),
            true => (self.state.window + 1, 0, end),
        };
        let (batches, fingerprint) = (self.state.batches + 1, self.state.fingerprint);
        self.state = BatchesState { batches, window, taken, sources: sources.clone(), fingerprint };
        Some(Ok(batch))
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Reads recordings and cuts segments out of them.
struct Cutter {
    cursor: Cursor,
    options: SegmentOptions,
    window: u64,
    /// Set once nobody waits for windows any more.
    stop: Arc<AtomicBool>,
}

impl Cutter {
    fn run(mut self, made: &SyncSender<Result<Window>>) {
        while let Some(window) = self.window().transpose() {
            let failed = window.is_err();
            if made.send(window).is_err() || failed {
                break;
            }
        }
    }

    /// The next window; `None` once nobody waits for it, or there are no more recordings.
    fn window(&mut self) -> Result<Option<Window>> {
        let (start, all) = (self.cursor.states().to_vec(), self.options.per_batch * self.options.batches_per_window());
        let mut segments = Vec::with_capacity(all);
        while segments.len() < all {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if !self.cut(&mut segments, all)? {
                return Ok(None);
            }
        }
        self.window += 1;
        Ok(Some(Window { ends: [start, self.cursor.states().to_vec()], segments }))
    }

    /// Cuts a long recording, or joins short ones; false if there are no more.
    fn cut(&mut self, segments: &mut Vec<Segment>, most: usize) -> Result<bool> {
        let (length, frame) = (self.options.samples(), self.options.samples_per_frame);
        let (mut samples, mut origins) = (Vec::with_capacity(length), Vec::new());
        while samples.len() < length {
            let Some((wave, location)) = self.recording()? else { return Ok(false) };
            if samples.is_empty() && wave.len() > length {
                let count = (wave.len() / length).min(most - segments.len());
                let begin = segments.len();
                segments.extend((begin..begin + count).map(|index| self.piece(&wave, &location, index)));
                return Ok(true);
            }
            let room = length - samples.len();
            samples.extend_from_slice(&wave[..wave.len().min(room)]);
            samples.resize(samples.len().next_multiple_of(frame), 0.0);
            origins.push(location.to_string());
        }
        segments.push(Segment { samples, origin: origins.join(", ") });
        Ok(true)
    }

    /// A piece of a long recording, from a random sample on; `index` is its number in the window.
    fn piece(&self, wave: &[f32], location: &Location, index: usize) -> Segment {
        let length = self.options.samples();
        let keys = [self.options.seed, self.window, index as u64];
        let start = Draws::new(Purpose::Cut, &keys).below(wave.len() - length + 1);
        Segment { samples: wave[start..start + length].to_vec(), origin: location.to_string() }
    }

    /// The next recording, in the order of the sources; its frames count for their shares.
    fn recording(&mut self) -> Result<Option<(Vec<f32>, Location)>> {
        let SegmentOptions { sample_rate, samples_per_frame, .. } = self.options;
        let drawn = self.cursor.next_text(|text, location| {
            let wave = match RecordingLine::parse(text, location)?.speech {
                Some(SpeechTarget::Wave(path)) => read_recording(&path, sample_rate, location)?,
                _ => return Err(location.refuse("no recording, expected the key `speech`")),
            };
            let frames = wave.len().div_ceil(samples_per_frame);
            Ok(((wave, location.clone()), frames))
        });
        Ok(drawn?.map(|(_, recording)| recording))
    }
}
