//! Guards that detect a talker that has lost its way.

use std::collections::VecDeque;

/// Frames that speech may have beyond its share per token, for an opening and a closing pause.
const PAUSES: usize = 50;
/// Frames of the longest loop that is detected.
const LONGEST_LOOP: usize = 16;
/// Root mean square below which a frame is silent, −60 dB.
const SILENT: f32 = 1e-3;

/// Whether `frames` frames are too many for a text of `words` words.
pub(crate) fn overrun(frames: usize, words: usize, frames_per_word: usize) -> bool {
    frames >= words.saturating_mul(frames_per_word).saturating_add(PAUSES)
}

/// Detects first codes that repeat themselves.
#[derive(Default)]
pub(crate) struct Loops {
    recent: VecDeque<u32>,
    /// For each period from 1 on, the number of frames whose code was that of one period before.
    repeated: [usize; LONGEST_LOOP],
}

impl Loops {
    /// Takes the next code; true if a loop has lasted for `most` frames.
    pub(crate) fn push(&mut self, code: u32, most: usize) -> bool {
        for (index, repeated) in self.repeated.iter_mut().enumerate() {
            let before = self.recent.get(self.recent.len().wrapping_sub(index + 1));
            *repeated = if before == Some(&code) { *repeated + 1 } else { 0 };
        }
        self.recent.push_back(code);
        if self.recent.len() > LONGEST_LOOP {
            self.recent.pop_front();
        }
        self.repeated.iter().any(|repeated| *repeated >= most)
    }
}

/// Detects long silence.
pub(crate) struct Silence {
    most: usize,
    /// Consecutive silent frames, up to the last complete one.
    silent: usize,
    /// Sum of squares and number of samples of the incomplete frame.
    partial: (f64, usize),
}

impl Silence {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, silent: 0, partial: (0.0, 0) }
    }

    /// Takes a piece of sound. If silence has lasted too long in it, returns the number of its samples up to that point.
    pub(crate) fn ends(&mut self, samples: &[f32], per_frame: usize) -> Option<usize> {
        for (index, sample) in samples.iter().enumerate() {
            let (squares, count) = &mut self.partial;
            *squares += f64::from(*sample) * f64::from(*sample);
            *count += 1;
            if *count == per_frame {
                let loudness = (*squares / per_frame as f64).sqrt() as f32;
                self.silent = if loudness < SILENT { self.silent + 1 } else { 0 };
                self.partial = (0.0, 0);
                if self.silent >= self.most {
                    return Some(index + 1);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of codes until the guard reports a loop.
    fn frames_until_loop(codes: impl Iterator<Item = u32>, most: usize) -> Option<usize> {
        let mut loops = Loops::default();
        codes.enumerate().find(|(_, code)| loops.push(*code, most)).map(|(index, _)| index + 1)
    }

    #[test]
    fn loops_of_every_period_are_found_and_speech_is_not() {
        for period in 1..=LONGEST_LOOP as u32 {
            assert_eq!(frames_until_loop((0..500).map(|i| i % period), 60), Some(period as usize + 60), "{period}");
        }
        assert_eq!(frames_until_loop((0..500).map(|i| i % 17), 60), None);
        assert_eq!(frames_until_loop((0..500).map(|i| i * i % 101), 60), None);
        // A pause that ends in time.
        assert_eq!(frames_until_loop((0..50).chain([7; 59]).chain(0..50), 60), None);
    }

    #[test]
    fn silence_is_found_at_the_same_frame_whatever_the_pieces() {
        let mut sound = vec![0.1; 40];
        sound.extend([0.0; 100]);
        for piece in [1, 7, 10, 25, 140] {
            let mut silence = Silence::new(5);
            let mut before = 0;
            let end = sound.chunks(piece).find_map(|samples| {
                before += samples.len();
                silence.ends(samples, 10).map(|end| before - samples.len() + end)
            });
            assert_eq!(end, Some(90), "pieces of {piece}");
        }
        let mut silence = Silence::new(5);
        assert_eq!(silence.ends(&[0.5; 1000], 10), None);
    }

    #[test]
    fn speech_may_last_as_long_as_its_text_allows() {
        assert!(!overrun(89, 1, 40) && overrun(90, 1, 40));
        assert!(!overrun(usize::MAX - 1, usize::MAX, 40));
    }
}
