//! The sound that a client sends: resampled, and searched for turns.

use std::collections::VecDeque;
use std::time::Duration;

use qwen3_omni::media::MediaError;
use qwen3_omni::media::audio::{Mono, SAMPLE_RATE};
use qwen3_omni::{TurnDetector, VoiceDetector};

use super::turn_detection::TurnDetection;
use crate::error::{ApiError, ApiResult};

/// Samples per second that clients send.
pub(super) const CLIENT_RATE: u32 = 24_000;
/// Samples that the detector looks at: 16 ms.
const FRAME: usize = 256;
/// Voice that begins a turn.
const BEGINS_AFTER: Duration = Duration::from_millis(64);
/// Sound after the end of speech that still belongs to the turn. The rest of the pause that ended it is dropped: it would cost prefill,
/// and small models take long silence for something said.
const TAIL: Duration = Duration::from_millis(200);

/// What is found in the sound.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// A turn began at this time of the session's sound, its padding included.
    Started { start_ms: u64 },
    /// The turn ended at this time; its sound is in the buffer.
    Stopped { end_ms: u64 },
}

pub(super) struct Ear {
    mono: Mono,
    detector: Option<Detector>,
    /// Samples that do not make a frame yet.
    partial: Vec<f32>,
    /// Samples of the client since the buffer was taken. What the resampler holds back is among them.
    received: usize,
    /// Samples so far.
    position: usize,
    /// The turn so far, or without a turn the sound that may lead into one; all sound if turns are not looked for.
    buffer: VecDeque<f32>,
    speaking: bool,
}

struct Detector {
    voice: VoiceDetector,
    padding: usize,
    /// Samples of silence that end a turn.
    silence: usize,
}

const ORIGIN: &str = "the session's sound";

fn samples(time: Duration) -> usize {
    (time.as_secs_f64() * f64::from(SAMPLE_RATE)) as usize
}

fn milliseconds(samples: usize) -> u64 {
    samples as u64 * 1000 / u64::from(SAMPLE_RATE)
}

/// A sink that keeps all samples.
fn collect(kept: &mut Vec<f32>) -> impl FnMut(&[f32]) -> Result<(), MediaError> + '_ {
    |piece| {
        kept.extend_from_slice(piece);
        Ok(())
    }
}

fn refused(error: MediaError) -> ApiError {
    ApiError::invalid("audio", error).code("invalid_audio")
}

impl Ear {
    pub(super) fn new(turns: Option<&TurnDetection>) -> Self {
        let mut ear = Self {
            mono: Mono::new(ORIGIN.into()),
            detector: None,
            partial: Vec::new(),
            received: 0,
            position: 0,
            buffer: VecDeque::new(),
            speaking: false,
        };
        ear.set(turns);
        ear
    }

    /// Looks for turns in another way from now on; a turn that was going on stays in the buffer.
    pub(super) fn set(&mut self, turns: Option<&TurnDetection>) {
        self.detector = turns.map(|turns| {
            let silence = Duration::from_millis(turns.silence_ms());
            Detector {
                voice: VoiceDetector::new(turns.threshold(), BEGINS_AFTER, silence),
                padding: samples(Duration::from_millis(turns.padding_ms())),
                silence: samples(silence),
            }
        });
        self.speaking = false;
        // What waits for a whole frame comes before what follows, also where no frames are made.
        self.position += self.partial.len();
        self.buffer.extend(self.partial.drain(..));
        self.received = self.buffer.len() * CLIENT_RATE as usize / SAMPLE_RATE as usize;
    }

    /// Whether a turn is going on.
    pub(super) fn is_speaking(&self) -> bool {
        self.speaking
    }

    /// Duration of the sound in the buffer.
    pub(super) fn buffered_ms(&self) -> u64 {
        match self.detector {
            None => self.received as u64 * 1000 / u64::from(CLIENT_RATE),
            Some(_) => milliseconds(self.buffer.len() + self.partial.len()),
        }
    }

    /// The turn that is going on, without a pause at its end that may not belong to it.
    pub(super) fn turn(&mut self) -> Option<&[f32]> {
        let silence = self.detector.as_ref().filter(|_| self.speaking)?.silence;
        let certain = self.buffer.len().saturating_sub(silence);
        Some(&self.buffer.make_contiguous()[..certain])
    }

    /// Takes samples at [`CLIENT_RATE`] and resamples them, to be searched.
    pub(super) fn push(&mut self, sound: &[f32]) -> ApiResult<Vec<f32>> {
        self.received += sound.len();
        let mut taken = Vec::new();
        self.mono.push(sound, CLIENT_RATE, 1, &mut collect(&mut taken)).map_err(refused)?;
        Ok(taken)
    }

    /// Searches samples from [`Ear::push`] up to the first event; returns it with what was not searched. A turn that has ended must be
    /// taken before more is searched.
    pub(super) fn search(&mut self, sound: Vec<f32>) -> Option<(Heard, Vec<f32>)> {
        let Some(detector) = &mut self.detector else {
            self.position += sound.len();
            self.buffer.extend(sound);
            return None;
        };
        self.partial.extend(sound);
        let mut at = 0;
        let mut found = None;
        while found.is_none() && at + FRAME <= self.partial.len() {
            let frame = &self.partial[at..at + FRAME];
            at += FRAME;
            self.position += FRAME;
            self.buffer.extend(frame);
            let before = std::mem::replace(&mut self.speaking, detector.voice.is_speaking(frame));
            found = match (before, self.speaking) {
                (false, true) => {
                    let start = self.position.saturating_sub(self.buffer.len());
                    Some(Heard::Started { start_ms: milliseconds(start) })
                }
                (true, false) => {
                    // The pause that ended the turn, but for its beginning.
                    let cut = detector.silence.saturating_sub(samples(TAIL)).min(self.buffer.len());
                    self.buffer.truncate(self.buffer.len() - cut);
                    Some(Heard::Stopped { end_ms: milliseconds(self.position - cut) })
                }
                _ => None,
            };
            if !self.speaking && found.is_none() {
                let kept = detector.padding + samples(BEGINS_AFTER);
                self.buffer.drain(..self.buffer.len().saturating_sub(kept));
            }
        }
        let rest = self.partial.split_off(at);
        self.partial.clear();
        match found {
            Some(heard) => Some((heard, rest)),
            None => {
                self.partial = rest;
                None
            }
        }
    }

    /// Takes the sound of the buffer, at 16 kHz. A turn that was going on is over.
    pub(super) fn take(&mut self) -> Vec<f32> {
        if let Some(detector) = &mut self.detector {
            detector.voice.reset();
        }
        self.speaking = false;
        self.received = 0;
        let mut rest = std::mem::take(&mut self.partial);
        self.position += rest.len();
        if self.detector.is_none() {
            // The sound ends here; what the resampler holds back belongs to it.
            let whole = std::mem::replace(&mut self.mono, Mono::new(ORIGIN.into()));
            // Without any sound there is nothing to hold back.
            let _ = whole.finish(&mut collect(&mut rest));
        }
        self.buffer.drain(..).chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finds all events in sound that comes in pieces of some size, with the length of each turn in milliseconds.
    fn heard(sound: &[f32], piece: usize, turns: Option<&TurnDetection>) -> (Vec<Heard>, Vec<u64>) {
        let mut ear = Ear::new(turns);
        let (mut events, mut turns) = (Vec::new(), Vec::new());
        for piece in sound.chunks(piece) {
            let mut left = ear.push(piece).unwrap();
            while let Some((event, rest)) = ear.search(left) {
                if matches!(event, Heard::Stopped { .. }) {
                    turns.push(milliseconds(ear.take().len()));
                }
                events.push(event);
                left = rest;
            }
        }
        (events, turns)
    }

    fn spoken() -> Vec<f32> {
        let file = testkit::nano().with_file_name("nano-samples").join("spoken_sum_question.wav");
        let words = qwen3_omni::media::audio::read_at(&file.into(), CLIENT_RATE).unwrap();
        let quiet = vec![0.0; CLIENT_RATE as usize];
        [&quiet[..], &words, &quiet].concat()
    }

    #[test]
    fn a_turn_begins_and_ends_with_speech_however_the_sound_is_cut() {
        let sound = spoken();
        let detection = TurnDetection::default();
        let (events, turns) = heard(&sound, 2400, Some(&detection));
        let [Heard::Started { start_ms }, Heard::Stopped { end_ms }] = events[..] else { panic!("{events:?}") };
        // A second of silence, then 1.98 s of words, whose own edges are silent.
        assert!((650..1100).contains(&start_ms), "{start_ms}");
        assert!((2700..3350).contains(&end_ms), "{end_ms}");
        assert!(turns[0].abs_diff(end_ms - start_ms) <= 16, "{turns:?}");
        for piece in [1000, 24_000, sound.len()] {
            assert_eq!(heard(&sound, piece, Some(&detection)).0, events, "{piece}");
        }
    }

    #[test]
    fn where_detection_is_switched_off_only_what_is_held_counts() {
        let mut ear = Ear::new(Some(&TurnDetection::default()));
        for _ in 0..100 {
            let pushed = ear.push(&[0.0; 2401]).unwrap();
            assert!(ear.search(pushed).is_none());
        }
        ear.set(None);
        let held = ear.buffered_ms();
        assert!((300..400).contains(&held), "{held} ms of ten seconds");
        let pushed = ear.push(&[0.5; 2400]).unwrap();
        assert!(ear.search(pushed).is_none());
        let all = ear.take();
        // What was pushed, and what the resampler held back before.
        let more = milliseconds(all.len()).saturating_sub(held);
        assert!((95..145).contains(&more), "{more} ms more");
        // The sound, after all silence.
        let first = all.iter().position(|sample| sample.abs() > 0.2).unwrap();
        assert!(all[first + 8..all.len() - 16].iter().all(|sample| *sample > 0.2), "silence within the sound");
    }

    #[test]
    fn without_detection_all_sound_is_kept_and_silence_is_no_turn() {
        let mut ear = Ear::new(None);
        let pushed = ear.push(&vec![0.1; 2400]).unwrap();
        assert!(ear.search(pushed).is_none());
        assert_eq!(ear.buffered_ms(), 100);
        assert_eq!((ear.take().len(), ear.buffered_ms()), (1600, 0));
        assert!(heard(&vec![0.0; 72_000], 2400, Some(&TurnDetection::default())).0.is_empty());
    }
}
