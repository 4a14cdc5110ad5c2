//! When each word of an answer is spoken, estimated.

use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use unicode_segmentation::UnicodeSegmentation;

/// A word of an answer, with the time at which it is spoken. The times are estimated: the talker does not tell them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpokenWord {
    /// The word's bytes in [`crate::Reply::text`].
    pub text: Range<usize>,
    /// From the beginning of the speech to the word's.
    #[serde(with = "super::seconds")]
    pub start: Duration,
    /// From the beginning of the speech to the word's end.
    #[serde(with = "super::seconds")]
    pub end: Duration,
}

/// How fast a model speaks: frames of voice per unit of [`weight`], of the last answer that was spoken to its end.
#[derive(Clone, Default)]
pub(crate) struct Pace(Arc<Mutex<Option<f64>>>);

/// The pace before any answer was spoken to its end: 165 words of five letters a minute, at 12.5 frames a second.
const USUAL_PACE: f64 = 0.65;

impl Pace {
    pub(crate) fn get(&self) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(USUAL_PACE)
    }

    pub(crate) fn set(&self, pace: f64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pace);
    }
}

/// A frame below this share of the loudest one is a pause.
const PAUSE: f32 = 0.05;

/// The loudness of a speech, frame by frame.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loudness {
    frames: Vec<f32>,
    /// Sum of squares and number of samples of the frame that is not complete.
    partial: (f64, usize),
}

impl Loudness {
    pub(crate) fn push(&mut self, samples: &[f32], per_frame: usize) {
        for sample in samples {
            let (squares, count) = &mut self.partial;
            *squares += f64::from(*sample) * f64::from(*sample);
            *count += 1;
            if *count == per_frame {
                self.frames.push((*squares / per_frame as f64).sqrt() as f32);
                self.partial = (0.0, 0);
            }
        }
    }

    /// For each of `count` frames, the frames of voice up to its end. Frames of unknown loudness are voice.
    fn voice(&self, count: usize) -> Vec<f64> {
        let loudest = self.frames.iter().copied().fold(0.0, f32::max);
        let is_voice = |frame: usize| self.frames.get(frame).is_none_or(|loudness| *loudness > PAUSE * loudest);
        let mut voice = 0.0;
        let mut up_to = |frame: usize| {
            voice += if is_voice(frame) { 1.0 } else { 0.0 };
            voice
        };
        (0..count).map(&mut up_to).collect()
    }
}

/// A speech whose words are to be placed.
pub(crate) struct Spoken<'a> {
    /// The spoken part of the answer's text.
    pub(crate) text: &'a str,
    /// For each byte of the text, whether it is spoken; `None` if all of it is.
    pub(crate) mask: Option<&'a [bool]>,
    pub(crate) frames: usize,
    pub(crate) loudness: &'a Loudness,
    /// Whether the speech ended by itself, and so with its text.
    pub(crate) whole: bool,
    /// Frames of voice per unit of weight, for a speech that is not whole.
    pub(crate) pace: f64,
    pub(crate) frame: Duration,
}

/// How long a word takes, in units that are alike for all words: its letters, and two more for what every word takes. A digit stands
/// for a spoken word, a letter of a script without spaces for a syllable.
fn weight(word: &str) -> f64 {
    let letter = |c: char| match c {
        '0'..='9' => 4.0,
        '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7AF}' => 3.0,
        _ => 1.0,
    };
    2.0 + word.chars().map(letter).sum::<f64>()
}

fn weight_of(words: &[(usize, &str)]) -> f64 {
    words.iter().map(|(_, word)| weight(word)).sum()
}

impl Spoken<'_> {
    /// Places the words: each takes a share of the voice by its weight; pauses belong to none. Words of a speech that is not whole
    /// are placed by its pace, as far as there is sound.
    pub(crate) fn words(&self) -> Vec<SpokenWord> {
        let words = self.spoken_words();
        let voice = self.loudness.voice(self.frames);
        let (total, all) = (weight_of(&words), voice.last().copied().unwrap_or(0.0));
        let pace = if self.whole { all / total.max(1.0) } else { self.pace };
        let mut before = 0.0;
        let placed = words.into_iter().map(|(at, word)| {
            let start = before;
            before += weight(word);
            (at..at + word.len(), start * pace, before * pace)
        });
        let heard = placed.take_while(|(_, start, _)| *start < all);
        heard.map(|(text, start, end)| self.timed(text, &voice, start, end.min(all))).collect()
    }

    /// The words with their offsets, without those that are not spoken.
    fn spoken_words(&self) -> Vec<(usize, &str)> {
        let is_spoken = |at: usize| self.mask.is_none_or(|mask| mask.get(at).copied().unwrap_or(true));
        self.text.unicode_word_indices().filter(|(at, _)| is_spoken(*at)).collect()
    }

    /// Frames of voice per unit of weight, if the speech tells.
    pub(crate) fn own_pace(&self) -> Option<f64> {
        let voice = self.loudness.voice(self.frames).last().copied().filter(|voice| self.whole && *voice > 0.0)?;
        Some(voice / weight_of(&self.spoken_words())).filter(|pace| pace.is_finite())
    }

    fn timed(&self, text: Range<usize>, voice: &[f64], start: f64, end: f64) -> SpokenWord {
        // A word begins after a pause and ends before the next one.
        let first = voice.partition_point(|voice| *voice <= start);
        let last = voice.partition_point(|voice| *voice < end);
        let at = |frame: usize, within: f64| {
            let before = if frame == 0 { 0.0 } else { voice[frame - 1] };
            self.frame.mul_f64(frame as f64 + (within - before).clamp(0.0, 1.0))
        };
        SpokenWord { text, start: at(first, start), end: at(last.min(voice.len() - 1), end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, loud: &[f32], whole: bool) -> Vec<(String, f64, f64)> {
        let mut loudness = Loudness::default();
        loud.iter().for_each(|frame| loudness.push(&[*frame; 10], 10));
        let frame = Duration::from_millis(80);
        let spoken = Spoken { text, mask: None, frames: loud.len(), loudness: &loudness, whole, pace: 1.0, frame };
        let frames = |time: Duration| (time.as_secs_f64() / frame.as_secs_f64() * 1e6).round() / 1e6;
        let word = |word: SpokenWord| (text[word.text].to_owned(), frames(word.start), frames(word.end));
        spoken.words().into_iter().map(word).collect()
    }

    fn named(expected: &[(&str, f64, f64)]) -> Vec<(String, f64, f64)> {
        expected.iter().map(|(word, start, end)| ((*word).to_owned(), *start, *end)).collect()
    }

    #[test]
    fn words_share_the_voice_and_pauses_belong_to_none() {
        // Weights 4 and 6; ten frames of voice.
        assert_eq!(words("is four", &[0.3; 10], true), named(&[("is", 0.0, 4.0), ("four", 4.0, 10.0)]));
        let pause = [&[0.0; 2][..], &[0.3; 4], &[0.0; 5], &[0.3; 6], &[0.0; 3]].concat();
        assert_eq!(words("is, four!", &pause, true), named(&[("is", 2.0, 6.0), ("four", 11.0, 17.0)]));
    }

    #[test]
    fn a_speech_that_was_cut_has_the_words_for_which_there_is_sound() {
        let cut = words("is four five", &[0.3; 7], false);
        assert_eq!(cut, named(&[("is", 0.0, 4.0), ("four", 4.0, 7.0)]));
        assert!(words("is four", &[], true).is_empty() && words("", &[0.3; 3], true).is_empty());
    }
}
