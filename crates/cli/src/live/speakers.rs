//! Sound that is played while it is being made.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{Stream, StreamConfig};
use qwen3_omni::media::audio::Resampler;
use qwen3_omni::{Audio, Result};

use super::{TICK, absent, failed};

/// The default speakers.
pub struct Speakers {
    _stream: Stream,
    waiting: Arc<Mutex<Waiting>>,
    rate: u32,
    /// One for a whole answer, so that its pieces join without a seam.
    resampler: RefCell<Option<Resampler>>,
}

/// What is to be played, at the speakers' own rate.
#[derive(Default)]
struct Waiting {
    samples: VecDeque<f32>,
    played: u64,
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Speakers {
    /// Opens the speakers.
    ///
    /// # Errors
    /// [`qwen3_omni::Error::Device`] if there are none, or they fail.
    pub fn open() -> Result<Self> {
        let device = cpal::default_host().default_output_device().ok_or_else(|| absent("speakers"))?;
        let config: StreamConfig = device.default_output_config().map_err(failed)?.into();
        let (channels, rate) = (usize::from(config.channels), config.sample_rate);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let shared = waiting.clone();
        let give = move |data: &mut [f32], _: &cpal::OutputCallbackInfo| {
            let mut waiting = lock(&shared);
            for frame in data.chunks_exact_mut(channels) {
                let sample = waiting.samples.pop_front();
                waiting.played += u64::from(sample.is_some());
                frame.fill(sample.unwrap_or(0.0));
            }
        };
        let stream = device.build_output_stream(config, give, |error| tracing::warn!("speakers: {error}"), None);
        let stream = stream.map_err(failed)?;
        stream.play().map_err(failed)?;
        Ok(Self { _stream: stream, waiting, rate, resampler: RefCell::new(None) })
    }

    /// Takes sound, to be played after what came before.
    ///
    /// # Errors
    /// [`qwen3_omni::Error::Media`] for NaN or infinite samples.
    pub fn queue(&self, audio: &Audio) -> Result<()> {
        let mut resampler = self.resampler.borrow_mut();
        let resampler = resampler.get_or_insert_with(|| Resampler::new(audio.sample_rate, self.rate));
        let pushed = resampler.push(&audio.samples, &mut |piece| {
            lock(&self.waiting).samples.extend(piece);
            Ok(())
        });
        pushed.map_err(|error| error.in_part("the answer's sound"))
    }

    /// Ends an answer: plays what the resampler still holds.
    pub fn flush(&self) {
        let rest = self.resampler.take().map(|resampler| {
            resampler.finish(&mut |piece| {
                lock(&self.waiting).samples.extend(piece);
                Ok(())
            })
        });
        // The samples were checked when they came.
        drop(rest);
    }

    /// Waits until all was played, or until `stopped` says otherwise; then the rest is discarded.
    pub fn wait(&self, stopped: &mut dyn FnMut() -> bool) {
        self.flush();
        while !lock(&self.waiting).samples.is_empty() {
            if stopped() {
                return self.clear();
            }
            thread::sleep(TICK);
        }
    }

    /// Discards what was not played.
    pub fn clear(&self) {
        self.resampler.take();
        lock(&self.waiting).samples.clear();
    }

    /// Begins an answer: what was played is counted from here.
    pub fn begin(&self) {
        lock(&self.waiting).played = 0;
    }

    /// A function that tells how many samples of an answer of this rate were played, for another thread.
    pub fn counter(&self, rate: u32) -> impl Fn() -> usize + Send + 'static {
        let (waiting, own) = (self.waiting.clone(), u64::from(self.rate));
        move || (lock(&waiting).played * u64::from(rate) / own) as usize
    }
}
