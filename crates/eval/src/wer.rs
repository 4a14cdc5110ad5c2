//! Word and character error rates.
//!
//! ```
//! use qwen3_omni_eval::wer::Edits;
//!
//! let edits = Edits::words("seven plus five is twelve", "seven plus nine is twelve twelve");
//! assert_eq!((edits.hits, edits.substitutions, edits.deletions, edits.insertions), (4, 1, 0, 1));
//! assert_eq!(edits.rate(), Some(0.4));
//! ```

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

use crate::normalise::seed_tts;

/// The fewest edits that turn a reference into a hypothesis, counted by kind.
///
/// Where several alignments have as few edits, the kinds are those that `jiwer` 4 counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edits {
    /// Words that are right.
    pub hits: usize,
    /// Words that are others.
    pub substitutions: usize,
    /// Words of the reference that are missing.
    pub deletions: usize,
    /// Words that the reference does not have.
    pub insertions: usize,
}

impl Edits {
    /// Compares words, which white space separates.
    pub fn words(reference: &str, hypothesis: &str) -> Self {
        let words = |text| str::split_whitespace(text).collect::<Vec<_>>();
        Self::between(&words(reference), &words(hypothesis))
    }

    /// Compares characters, spaces between words included.
    pub fn characters(reference: &str, hypothesis: &str) -> Self {
        let characters = |text: &str| text.trim().chars().collect::<Vec<_>>();
        Self::between(&characters(reference), &characters(hypothesis))
    }

    /// Compares two sequences.
    pub fn between<T: PartialEq>(reference: &[T], hypothesis: &[T]) -> Self {
        let is_same = |(a, b): &(&T, &T)| a == b;
        let begin = reference.iter().zip(hypothesis).take_while(is_same).count();
        let (reference, hypothesis) = (&reference[begin..], &hypothesis[begin..]);
        let end = reference.iter().rev().zip(hypothesis.iter().rev()).take_while(is_same).count();
        let middle = align(&reference[..reference.len() - end], &hypothesis[..hypothesis.len() - end]);
        Self { hits: middle.hits + begin + end, ..middle }
    }

    /// Substitutions, deletions and insertions.
    pub fn errors(&self) -> usize {
        self.substitutions + self.deletions + self.insertions
    }

    /// Words of the reference.
    pub fn reference_words(&self) -> usize {
        self.hits + self.substitutions + self.deletions
    }

    /// Errors per word of the reference, which may be more than 1; `None` if the reference is empty.
    pub fn rate(&self) -> Option<f64> {
        let words = self.reference_words();
        (words > 0).then(|| self.errors() as f64 / words as f64)
    }
}

impl Add for Edits {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            substitutions: self.substitutions + other.substitutions,
            deletions: self.deletions + other.deletions,
            insertions: self.insertions + other.insertions,
        }
    }
}

impl AddAssign for Edits {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Edits {
    fn sum<I: Iterator<Item = Self>>(edits: I) -> Self {
        edits.fold(Self::default(), Add::add)
    }
}

/// Sums the edits of a corpus, whose rate is all errors by all reference words. Pairs with an empty reference are left out.
pub fn corpus(edits: impl IntoIterator<Item = Edits>) -> Edits {
    edits.into_iter().filter(|edits| edits.reference_words() > 0).sum()
}

/// The rate of one utterance by the rules of SEED-TTS, whose figure is the mean over utterances. `None` if the reference is empty.
pub fn seed_tts_rate(reference: &str, hypothesis: &str, by_character: bool) -> Option<f64> {
    let [reference, hypothesis] = [reference, hypothesis].map(|text| seed_tts(text, by_character));
    Edits::words(&reference, &hypothesis).rate()
}

/// Computes the table of edit distances row by row; each cell holds the counts of the way to it.
fn align<T: PartialEq>(reference: &[T], hypothesis: &[T]) -> Edits {
    let mut column: Vec<Edits> =
        (0..=reference.len()).map(|deletions| Edits { deletions, ..Edits::default() }).collect();
    for word in hypothesis {
        let mut diagonal = column[0];
        column[0].insertions += 1;
        for (row, expected) in reference.iter().enumerate() {
            let (above, left) = (column[row], column[row + 1]);
            column[row + 1] = best(above, left, diagonal, expected == word);
            diagonal = left;
        }
    }
    column[reference.len()]
}

/// The counts of a cell: from the one above by a deletion, from the left one by an insertion, or from the one before both.
fn best(above: Edits, left: Edits, diagonal: Edits, is_hit: bool) -> Edits {
    let [up, side, across] = [above, left, diagonal].map(|edits| edits.errors());
    let least = (up + 1).min(side + 1).min(across + usize::from(!is_hit));
    // The order in which `rapidfuzz`, on which `jiwer` builds, goes back through its table.
    if least == up + 1 {
        Edits { deletions: above.deletions + 1, ..above }
    } else if side + 1 == across {
        Edits { insertions: left.insertions + 1, ..left }
    } else if is_hit {
        Edits { hits: diagonal.hits + 1, ..diagonal }
    } else {
        Edits { substitutions: diagonal.substitutions + 1, ..diagonal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_sides_are_all_errors() {
        assert_eq!(Edits::words("", "a b"), Edits { insertions: 2, ..Edits::default() });
        assert_eq!(Edits::words("a b", ""), Edits { deletions: 2, ..Edits::default() });
        assert_eq!((Edits::words("", "a").rate(), Edits::words("a", "").rate()), (None, Some(1.0)));
    }

    #[test]
    fn a_corpus_weighs_words_and_leaves_out_empty_references() {
        let edits = [Edits::words("a", "b"), Edits::words("a b c", "a b c"), Edits::words("", "x y")];
        assert_eq!(corpus(edits).rate(), Some(0.25));
    }

    #[test]
    fn seed_tts_counts_hyphenated_words_as_one() {
        assert_eq!(seed_tts_rate("Well-known, isn't it?", "well-known isn't it", false), Some(0.0));
        assert_eq!(seed_tts_rate("你好，世界！", "你好世间", true), Some(0.25));
    }
}
