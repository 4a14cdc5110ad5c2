//! Cuts incoming sound into frames and finds the turns in it.

use std::collections::VecDeque;
use std::time::Duration;

use media::MediaError;
use media::audio::{Mono, SAMPLE_RATE};
use omni_core::Result;

use super::detector::{FRAME, TurnDetector};

/// What a frame changes.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// A turn begins with this sound, the lead-in included.
    Begin(Vec<f32>),
    /// More of the turn.
    More(Vec<f32>),
    /// The turn ends; the frame is silent.
    End,
}

/// Resamples sound to 16 kHz and follows the turns in it.
pub(super) struct Ear {
    mono: Mono,
    detector: Box<dyn TurnDetector>,
    /// Samples of the frame that is not complete.
    partial: Vec<f32>,
    /// The last samples without a turn, at most the lead-in.
    before: VecDeque<f32>,
    speaking: bool,
}

const ORIGIN: &str = "the conversation's sound";

impl Ear {
    pub(super) fn new(detector: Box<dyn TurnDetector>) -> Self {
        let mono = Mono::new(ORIGIN.into());
        Self { mono, detector, partial: Vec::new(), before: VecDeque::new(), speaking: false }
    }

    /// Takes samples and returns what is heard in them, in order.
    ///
    /// # Errors
    /// [`omni_core::Error::Media`] if a sample is not a finite number, or the rate is absurd or changes.
    pub(super) fn push(&mut self, samples: &[f32], sample_rate: u32) -> Result<Vec<Heard>> {
        let partial = &mut self.partial;
        let taken = self.mono.push(samples, sample_rate, 1, &mut |piece| {
            partial.extend_from_slice(piece);
            Ok(())
        });
        let mut heard = Vec::new();
        let sound = std::mem::take(&mut self.partial);
        let (frames, rest) = sound.as_chunks::<FRAME>();
        self.partial = rest.to_vec();
        for frame in frames {
            self.hear(frame, &mut heard);
        }
        taken.map(|()| heard).map_err(|error: MediaError| error.in_part(ORIGIN))
    }

    fn hear(&mut self, frame: &[f32], heard: &mut Vec<Heard>) {
        let before = std::mem::replace(&mut self.speaking, self.detector.is_speaking(frame));
        match (before, self.speaking) {
            (false, false) => self.wait(frame),
            (false, true) => {
                let mut sound: Vec<f32> = self.before.drain(..).collect();
                sound.extend_from_slice(frame);
                heard.push(Heard::Begin(sound));
            }
            (true, true) => match heard.last_mut() {
                Some(Heard::Begin(sound) | Heard::More(sound)) => sound.extend_from_slice(frame),
                _ => heard.push(Heard::More(frame.to_vec())),
            },
            (true, false) => {
                heard.push(Heard::End);
                self.wait(frame);
            }
        }
    }

    /// Keeps a frame that may turn out to lead into a turn.
    fn wait(&mut self, frame: &[f32]) {
        self.before.extend(frame);
        let most = samples_in(self.detector.lead_in(), SAMPLE_RATE);
        self.before.drain(..self.before.len().saturating_sub(most));
    }

    /// Ends a turn from outside. Returns whether there was one.
    pub(super) fn end(&mut self) -> bool {
        self.detector.reset();
        std::mem::take(&mut self.speaking)
    }
}

/// Samples that sound in a time.
pub(super) fn samples_in(time: Duration, sample_rate: u32) -> usize {
    (time.as_secs_f64() * f64::from(sample_rate)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Speaks while the sound is loud.
    struct Loud;

    impl TurnDetector for Loud {
        fn is_speaking(&mut self, frame: &[f32]) -> bool {
            frame.iter().any(|sample| *sample > 0.5)
        }

        fn lead_in(&self) -> Duration {
            Duration::from_millis(16)
        }
    }

    /// Begin, more and end with their numbers of samples, for pieces of some size.
    fn heard(sound: &[f32], piece: usize) -> Vec<(char, usize)> {
        let mut ear = Ear::new(Box::new(Loud));
        let mut all: Vec<(char, usize)> = Vec::new();
        for piece in sound.chunks(piece) {
            for heard in ear.push(piece, SAMPLE_RATE).unwrap() {
                match (heard, all.last_mut()) {
                    (Heard::More(more), Some((_, samples))) => *samples += more.len(),
                    (Heard::Begin(sound), _) => all.push(('b', sound.len())),
                    (Heard::End, _) => all.push(('e', 0)),
                    (Heard::More(_), None) => panic!("more of nothing"),
                }
            }
        }
        all
    }

    #[test]
    fn turns_are_the_same_however_the_sound_is_cut() {
        let quiet = vec![0.0; 4 * FRAME];
        let loud = vec![0.9; 3 * FRAME];
        let sound = [quiet.as_slice(), &loud, &quiet, &loud[..FRAME], &quiet].concat();
        // One frame of lead-in and three of voice, then one and one.
        let expected = [('b', 4 * FRAME), ('e', 0), ('b', 2 * FRAME), ('e', 0)];
        for piece in [1, 100, FRAME, 1000, sound.len()] {
            assert_eq!(heard(&sound, piece), expected, "{piece}");
        }
    }

    #[test]
    fn sound_before_a_wrong_sample_is_kept_and_the_ear_goes_on() {
        let mut ear = Ear::new(Box::new(Loud));
        let mut piece = vec![0.9; 2 * FRAME];
        piece[FRAME + 1] = f32::NAN;
        let message = ear.push(&piece, SAMPLE_RATE).unwrap_err().to_string();
        assert!(message.contains("not a finite number"), "{message}");
        assert!(ear.push(&vec![0.9; 2 * FRAME], SAMPLE_RATE).is_ok());
        assert!(ear.end() && !ear.end());
    }

    #[test]
    fn a_time_holds_its_samples() {
        assert_eq!([0, 40, 2000].map(|ms| samples_in(Duration::from_millis(ms), 24_000)), [0, 960, 48_000]);
    }
}
