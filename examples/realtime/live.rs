//! The machine's microphone and speakers.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{Stream, StreamConfig};
use indicatif::ProgressBar;
use qwen3_omni::{Error, GenerateOptions, MelNorm, Omni, Result};

use super::{Microphone, OUT, Output, answer, at_rate, listen, report};

/// Loudness above which a piece counts as speech: its root mean square.
const SPEECH: f32 = 0.02;
/// Consecutive pieces of speech that begin a turn, or interrupt an answer.
const ONSET: usize = 3;
/// Pieces of silence that end a turn: 0.8 s.
const PAUSE: usize = 8;

pub(super) fn run(omni: &Omni, options: &GenerateOptions, norm: MelNorm) -> Result<()> {
    let mut microphone = Pieces::open()?;
    let speakers = Speakers::open()?;
    let mut session = omni.session();
    eprintln!("speak; Ctrl-C ends. With headphones the model cannot hear itself.");
    loop {
        let line = ProgressBar::new_spinner();
        line.set_message("waiting for you");
        microphone.wait_for_speech(&line);
        let slowest = listen(session.audio_turn(options, norm)?, &mut Turn::new(&mut microphone), &line)?;
        speakers.begin();
        let reply = answer(&mut session, options, &speakers, &line, &mut |_| microphone.hears_speech())?;
        line.finish_and_clear();
        report(&reply, slowest, 0);
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Device(format!("sound: {error}"))
}

fn absent(what: &str) -> Error {
    Error::Device(format!("this machine has no {what}"))
}

/// Pieces of a tenth of a second from the microphone.
struct Pieces {
    _stream: Stream,
    incoming: Receiver<Vec<f32>>,
    rate: u32,
    begun: Vec<f32>,
    /// The last pieces: what was said before speech was noticed.
    recent: VecDeque<Vec<f32>>,
    /// Consecutive loud pieces.
    loud: usize,
}

impl Pieces {
    fn open() -> Result<Self> {
        let device = cpal::default_host().default_input_device().ok_or_else(|| absent("microphone"))?;
        let config: StreamConfig = device.default_input_config().map_err(failed)?.into();
        let (channels, rate) = (usize::from(config.channels), config.sample_rate);
        let (sender, incoming) = channel();
        let taken = move |data: &[f32], _: &cpal::InputCallbackInfo| {
            let mono = data.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32);
            // Without a reader the program is ending.
            let _ = sender.send(mono.collect::<Vec<f32>>());
        };
        let stream = device.build_input_stream(config, taken, |error| eprintln!("microphone: {error}"), None);
        let stream = stream.map_err(failed)?;
        stream.play().map_err(failed)?;
        Ok(Self { _stream: stream, incoming, rate, begun: Vec::new(), recent: VecDeque::new(), loud: 0 })
    }

    /// A whole piece, if one is there.
    fn ready(&mut self) -> Option<Vec<f32>> {
        let length = self.rate as usize / 10;
        while self.begun.len() < length {
            self.begun.extend(self.incoming.try_recv().ok()?);
        }
        let piece: Vec<f32> = self.begun.drain(..length).collect();
        let loudness = (piece.iter().map(|sample| sample * sample).sum::<f32>() / length as f32).sqrt();
        self.loud = if loudness > SPEECH { self.loud + 1 } else { 0 };
        Some(piece)
    }

    fn piece(&mut self) -> Vec<f32> {
        loop {
            if let Some(piece) = self.ready() {
                return piece;
            }
            std::thread::sleep(super::TICK);
        }
    }

    fn remember(&mut self, piece: Vec<f32>) {
        self.recent.push_back(piece);
        // What belongs to speech that has begun is kept.
        if self.recent.len() > 2 * ONSET && self.loud == 0 {
            self.recent.pop_front();
        }
    }

    fn wait_for_speech(&mut self, line: &ProgressBar) {
        while self.loud < ONSET {
            let piece = self.piece();
            self.remember(piece);
            line.tick();
        }
    }

    /// Whether somebody has begun to speak, without waiting.
    fn hears_speech(&mut self) -> bool {
        while let Some(piece) = self.ready() {
            self.remember(piece);
        }
        self.loud >= ONSET
    }
}

/// One turn: from the pieces in which speech was noticed to a pause.
struct Turn<'a> {
    pieces: &'a mut Pieces,
    silent: usize,
}

impl<'a> Turn<'a> {
    fn new(pieces: &'a mut Pieces) -> Self {
        Self { pieces, silent: 0 }
    }
}

impl Microphone for Turn<'_> {
    fn next(&mut self) -> Option<(Vec<f32>, u32)> {
        if let Some(piece) = self.pieces.recent.pop_front() {
            return Some((piece, self.pieces.rate));
        }
        if self.silent >= PAUSE {
            self.pieces.loud = 0;
            return None;
        }
        let piece = self.pieces.piece();
        self.silent = if self.pieces.loud > 0 { 0 } else { self.silent + 1 };
        Some((piece, self.pieces.rate))
    }
}

/// What the speakers play, at their own rate.
#[derive(Default)]
struct Waiting {
    samples: VecDeque<f32>,
    played: usize,
}

struct Speakers {
    _stream: Stream,
    waiting: Arc<Mutex<Waiting>>,
    rate: u32,
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Speakers {
    fn open() -> Result<Self> {
        let device = cpal::default_host().default_output_device().ok_or_else(|| absent("speakers"))?;
        let config: StreamConfig = device.default_output_config().map_err(failed)?.into();
        let (channels, rate) = (usize::from(config.channels), config.sample_rate);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let shared = waiting.clone();
        let give = move |data: &mut [f32], _: &cpal::OutputCallbackInfo| {
            let mut waiting = lock(&shared);
            for frame in data.chunks_exact_mut(channels) {
                let sample = waiting.samples.pop_front();
                waiting.played += usize::from(sample.is_some());
                frame.fill(sample.unwrap_or(0.0));
            }
        };
        let stream = device.build_output_stream(config, give, |error| eprintln!("speakers: {error}"), None);
        let stream = stream.map_err(failed)?;
        stream.play().map_err(failed)?;
        Ok(Self { _stream: stream, waiting, rate })
    }

    /// A new answer: what is played is counted from here.
    fn begin(&self) {
        *lock(&self.waiting) = Waiting::default();
    }
}

impl Output for Speakers {
    fn queue(&self, samples: Vec<f32>) {
        // Pieces are converted one by one: each is long against the filter.
        match at_rate(&samples, OUT, self.rate) {
            Ok(samples) => lock(&self.waiting).samples.extend(samples),
            Err(error) => eprintln!("speakers: {error}"),
        }
    }

    fn played(&self) -> usize {
        (lock(&self.waiting).played as u64 * u64::from(OUT) / u64::from(self.rate)) as usize
    }

    fn is_silent(&self) -> bool {
        lock(&self.waiting).samples.is_empty()
    }

    fn clear(&self) {
        lock(&self.waiting).samples.clear();
    }
}
