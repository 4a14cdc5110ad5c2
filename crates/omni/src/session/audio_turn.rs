//! User turns whose sound is prefilled while it is being spoken.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use media::MediaError;
use media::audio::{AudioInput, BINS, Mel, MelStream, Mono, SAMPLE_RATE};
use omni_core::{Error, Result};

use super::Session;
use crate::prompt::{GenerateOptions, Message};

/// Normalisation of log-mel frames before the sound has ended. The reference normalises all frames by the loudest one of the whole
/// recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MelNorm {
    /// Windows are normalised by the loudest frame so far. If a louder one changes earlier windows, they are prefilled again from
    /// the first that differs: the answer is that of the whole recording.
    #[default]
    Exact,
    /// Windows are normalised by the loudest frame so far and never prefilled again. Quiet frames before the loudest one differ
    /// a little from the recording's.
    SoFar,
}

/// A user turn that is being spoken; see [`Session::audio_turn`].
///
/// A finished turn takes no more sound:
///
/// ```compile_fail
/// # fn main() -> qwen3_omni::Result<()> {
/// # let mut session = qwen3_omni::Omni::builder("model").load()?.session();
/// let mut turn = session.audio_turn(&Default::default(), Default::default())?;
/// turn.finish()?;
/// turn.push(&[0.0; 160], 16_000)?;
/// # Ok(())
/// # }
/// ```
pub struct AudioTurn<'s> {
    session: &'s mut Session,
    options: GenerateOptions,
    norm: MelNorm,
    mono: Mono,
    mel: MelStream,
    /// All samples at 16 kHz, for [`MelNorm::Exact`].
    samples: Vec<f32>,
    /// Frames that were normalised for good, for [`MelNorm::SoFar`].
    fixed: Vec<f32>,
    window: usize,
    windows: usize,
}

impl std::fmt::Debug for AudioTurn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AudioTurn").finish_non_exhaustive()
    }
}

impl Session {
    /// Starts a user turn that is still being spoken. Its sound is prefilled as it comes, so the time from its end to the answer
    /// does not grow with its length. The options must be those of the answer.
    ///
    /// ```no_run
    /// # let omni = qwen3_omni::Omni::builder("model").load()?;
    /// # fn microphone() -> Option<Vec<f32>> { None }
    /// # let (mut session, options) = (omni.session(), Default::default());
    /// let mut turn = session.audio_turn(&options, Default::default())?;
    /// while let Some(samples) = microphone() {
    ///     turn.push(&samples, 48_000)?;
    /// }
    /// turn.finish()?;
    /// let reply = session.reply(&options)?;
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotLoaded`] without the encoders; [`Error::Request`] for options that cannot be served, or while the last answer is being
    /// read.
    pub fn audio_turn(&mut self, options: &GenerateOptions, norm: MelNorm) -> Result<AudioTurn<'_>> {
        options.validate()?;
        self.turns.settle()?;
        AudioTurn::new(self, options, norm)
    }
}

impl<'s> AudioTurn<'s> {
    pub(crate) fn new(session: &'s mut Session, options: &GenerateOptions, norm: MelNorm) -> Result<Self> {
        let missing = || {
            let reason = "an audio turn needs the checkpoint's own audio encoder, which works in windows; it was left out or replaced";
            Error::NotLoaded(reason.into())
        };
        let window = session.window_frames().ok_or_else(missing)?;
        Ok(Self {
            session,
            options: options.clone(),
            norm,
            mono: Mono::new(ORIGIN.into()),
            mel: MelStream::new(),
            samples: Vec::new(),
            fixed: Vec::new(),
            window,
            windows: 0,
        })
    }

    /// Takes samples of one channel in pieces of any size. When a window of the audio encoder is complete (8 seconds, or as set when
    /// the model was loaded), it is encoded and prefilled before this returns.
    ///
    /// # Errors
    /// [`Error::Media`] if a sample is not a finite number, or the rate is absurd or changes; [`Error::ContextLength`] when the context
    /// is full. Samples taken before are kept.
    pub fn push(&mut self, samples: &[f32], sample_rate: u32) -> Result<()> {
        let Self { mono, mel, samples: kept, .. } = self;
        let keeps = self.norm == MelNorm::Exact;
        let taken = mono.push(samples, sample_rate, 1, &mut |piece| {
            if keeps {
                kept.extend_from_slice(piece);
            }
            mel.push(piece)
        });
        taken.map_err(in_turn)?;
        let complete = self.mel.frames() / self.window;
        if complete > self.windows {
            let made = self.frames(complete * self.window);
            self.session.prefill_audio(Message::user().audio(AudioInput::Frames(Arc::new(made))), &self.options)?;
            self.windows = complete;
        }
        Ok(())
    }

    /// Duration of the sound so far.
    pub fn duration(&self) -> std::time::Duration {
        std::time::Duration::from_secs_f64(self.mel.samples() as f64 / f64::from(SAMPLE_RATE))
    }

    /// Ends the sound and adds it to the session as a user message, ready to be answered.
    ///
    /// # Errors
    /// [`Error::Media`] if there is no sound, or less than 201 samples at 16 kHz; the session stays as it was.
    pub fn finish(self) -> Result<()> {
        self.finish_with(|message| message)
    }

    /// Ends the sound and adds further parts after it.
    ///
    /// # Errors
    /// The errors of [`AudioTurn::finish`].
    pub fn finish_with(self, add: impl FnOnce(Message) -> Message) -> Result<()> {
        let Self { session, norm, mono, mut mel, mut samples, mut fixed, .. } = self;
        let keeps = norm == MelNorm::Exact;
        let rest = mono.finish(&mut |piece| {
            if keeps {
                samples.extend_from_slice(piece);
            }
            mel.push(piece)
        });
        rest.map_err(in_turn)?;
        let mel = mel.finish().map_err(in_turn)?;
        let input = match norm {
            MelNorm::Exact => AudioInput::samples(samples, SAMPLE_RATE, 1),
            MelNorm::SoFar => {
                fixed.extend_from_slice(&mel.values()[fixed.len()..]);
                AudioInput::Frames(Arc::new(Mel::new(fixed).map_err(in_turn)?))
            }
        };
        session.push(add(Message::user().audio(input)));
        Ok(())
    }

    /// Returns the frames of all complete windows.
    fn frames(&mut self, end: usize) -> Mel {
        match self.norm {
            MelNorm::Exact => self.mel.so_far(0..end),
            MelNorm::SoFar => {
                // After a push that failed they may be there already.
                let start = self.fixed.len() / BINS;
                if start < end {
                    self.fixed.extend_from_slice(self.mel.so_far(start..end).values());
                }
                Mel::new(self.fixed.clone()).expect("whole frames")
            }
        }
    }
}

const ORIGIN: &str = "the audio turn";

fn in_turn(error: MediaError) -> Error {
    error.in_part(ORIGIN)
}
