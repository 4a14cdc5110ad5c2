//! How good one answer is.

use serde::{Deserialize, Serialize};

use crate::extract;
use crate::item::{Expected, letter};
use crate::normalise::Normaliser;
use crate::wer::{Edits, seed_tts_rate};

/// How good one answer is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Score {
    /// A transcript against what is said.
    Transcript {
        /// How both were normalised.
        normaliser: Normaliser,
        /// Edits between words; by [`Normaliser::Characters`], words are characters.
        words: Edits,
        /// Edits between characters, spaces included.
        characters: Edits,
        /// Rate by the rules of SEED-TTS, for speech that a model made.
        seed_tts: Option<f64>,
    },
    /// Transcripts of a recording, and of the same after it went through a codec.
    Codec {
        /// How all texts were normalised.
        normaliser: Normaliser,
        /// What was heard before the codec.
        heard_before: String,
        /// Edits between what is said and what was heard before the codec.
        before: Edits,
        /// Edits between what is said and what was heard behind it.
        after: Edits,
        /// Edits between what was heard before and behind it, which need no known words.
        between: Edits,
    },
    /// An answer that is right or wrong.
    Answer {
        /// What was taken as the answer; `None` if there was none.
        taken: Option<String>,
        /// Whether it is right.
        is_right: bool,
    },
    /// The solution of a logic puzzle.
    Grid {
        /// Cells that are right.
        right: usize,
        /// All cells.
        cells: usize,
        /// Whether there was a solution.
        is_answered: bool,
    },
}

impl Score {
    /// Compares a transcript with what is said.
    pub fn transcript(text: &str, heard: &str, normaliser: Normaliser) -> Self {
        let [reference, hypothesis] = [text, heard].map(|text| normaliser.apply(text));
        let words = Edits::words(&reference, &hypothesis);
        Self::Transcript { normaliser, words, characters: Edits::characters(&reference, &hypothesis), seed_tts: None }
    }

    /// Compares what a recogniser heard of speech with the text that was to be spoken.
    pub fn speech(text: &str, heard: &str, normaliser: Normaliser) -> Self {
        let rate = seed_tts_rate(text, heard, normaliser == Normaliser::Characters);
        match Self::transcript(text, heard, normaliser) {
            Self::Transcript { words, characters, .. } => {
                Self::Transcript { normaliser, words, characters, seed_tts: rate }
            }
            other => other,
        }
    }

    /// Compares what was heard before a codec and behind it with what is said; an empty text is not known.
    pub fn codec(text: &str, [before, after]: [&str; 2], normaliser: Normaliser) -> Self {
        let [said, first, second] = [text, before, after].map(|text| normaliser.apply(text));
        Self::Codec {
            normaliser,
            heard_before: before.to_owned(),
            before: Edits::words(&said, &first),
            after: Edits::words(&said, &second),
            between: Edits::words(&first, &second),
        }
    }

    /// Compares an answer with what is right.
    pub fn answer(text: &str, expected: &Expected) -> Self {
        match expected {
            Expected::Choice { options, right } => {
                let index = extract::choice(text, options);
                Self::Answer { taken: index.map(|index| letter(index).into()), is_right: index == Some(*right) }
            }
            Expected::Integer(right) => {
                let number = extract::integer(text);
                Self::Answer { taken: number.map(|number| number.to_string()), is_right: number == Some(*right) }
            }
            Expected::Grid(grid) => {
                let solution = extract::grid(text);
                let right = solution.as_ref().map_or(0, |solution| grid.shared(solution));
                Self::Grid { right, cells: grid.cells(), is_answered: solution.is_some() }
            }
        }
    }

    /// Whether the answer is right as a whole: without edits, the right option or number, all cells.
    pub fn is_right(&self) -> bool {
        match self {
            Self::Transcript { words, .. } => words.errors() == 0,
            Self::Codec { after, between, .. } => match after.reference_words() {
                0 => between.errors() == 0,
                _ => after.errors() == 0,
            },
            Self::Answer { is_right, .. } => *is_right,
            Self::Grid { right, cells, .. } => right == cells,
        }
    }
}
