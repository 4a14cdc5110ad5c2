//! Text that arrives in pieces, cut where it can be spoken.

use unicode_segmentation::UnicodeSegmentation;

use super::speech::MOST_INPUT;

/// Bytes of a text that are looked at in one go: a few thousand steps, after which others may have the thread.
const PIECE: usize = 1 << 12;
/// Characters in a row, none of them a letter or a digit, that are kept. More say nothing, and the end of a sentence before them is looked
/// for in quadratic time.
const MOST_MARKS: usize = 32;

/// Cuts a text into pieces that are quick to look at.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let piece;
        (piece, rest) = rest.split_at(rest.floor_char_boundary(PIECE));
        (!piece.is_empty()).then_some(piece)
    })
}

/// Collects text and gives away what is complete, in units that are spoken one after the other.
#[derive(Debug, Default)]
pub(super) struct Sentences {
    text: String,
    /// Characters since the last letter or digit.
    marks: usize,
}

impl Sentences {
    /// Takes more text and returns the sentences that are complete, or the clauses. The end of one is known when the next begins.
    pub(super) fn push(&mut self, text: &str, by_clauses: bool) -> Vec<String> {
        text.chars().for_each(|c| self.take(c));
        let (mut done, mut units) = (0, Vec::new());
        for (at, sentence) in self.text.split_sentence_bound_indices() {
            let mut rest = sentence;
            while let Some(length) = part(rest, by_clauses) {
                units.extend(spoken(&rest[..length]));
                rest = &rest[length..];
            }
            if at + sentence.len() < self.text.len() {
                units.extend(spoken(rest));
                rest = "";
            }
            done = at + sentence.len() - rest.len();
        }
        self.text.drain(..done);
        units
    }

    fn take(&mut self, c: char) {
        self.marks = if c.is_alphanumeric() { 0 } else { self.marks + 1 };
        if self.marks <= MOST_MARKS {
            self.text.push(c);
        }
    }

    /// Returns the rest.
    pub(super) fn finish(&mut self) -> Option<String> {
        spoken(&std::mem::take(self).text)
    }
}

/// Length of the first part of a sentence that is spoken by itself, if another follows.
fn part(text: &str, by_clauses: bool) -> Option<usize> {
    let clause = by_clauses.then(|| clause(text)).flatten();
    clause.filter(|end| text[..*end].chars().count() <= MOST_INPUT).or_else(|| too_long(text))
}

/// What of a text can be read at once, up to a space between two words; `None` if all of it can.
fn too_long(text: &str) -> Option<usize> {
    let (longest, _) = text.char_indices().nth(MOST_INPUT)?;
    Some(text[..longest].rfind(char::is_whitespace).filter(|at| *at > 0).unwrap_or(longest))
}

/// Length of the first clause, if another follows. Marks within a number or a word end none.
fn clause(text: &str) -> Option<usize> {
    let mut marks = text.char_indices().filter(|(_, mark)| ",;:，；：、—".contains(*mark));
    marks.find_map(|(at, mark)| {
        let end = at + mark.len_utf8();
        let after = &text[end..];
        let next = after.find(|c: char| !c.is_whitespace())?;
        (next > 0 || !mark.is_ascii()).then_some(end + next)
    })
}

/// The unit without what surrounds it; `None` if nothing of it can be spoken.
fn spoken(unit: &str) -> Option<String> {
    unit.contains(char::is_alphanumeric).then(|| unit.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cuts a text that arrives `piece` characters at a time.
    fn units(text: &str, piece: usize, by_clauses: bool) -> Vec<String> {
        let mut sentences = Sentences::default();
        let chars: Vec<char> = text.chars().collect();
        let pieces = chars.chunks(piece).map(|piece| piece.iter().collect::<String>());
        let mut units: Vec<String> = pieces.flat_map(|piece| sentences.push(&piece, by_clauses)).collect();
        units.extend(sentences.finish());
        units
    }

    #[test]
    fn sentences_end_at_their_marks_and_numbers_stay_whole() {
        let text = "Pi is 3.14, they say. Is it? Yes! 你好。再见。 e.g. this one\n\nAnd the rest";
        let sentences =
            ["Pi is 3.14, they say.", "Is it?", "Yes!", "你好。", "再见。", "e.g. this one", "And the rest"];
        for piece in [1, 3, 1000] {
            assert_eq!(units(text, piece, false), sentences, "{piece}");
        }
        let clauses = ["Well,", "1,000 of them;", "or so: no.", "好，", "吧"];
        assert_eq!(
            units("Well, 1,000 of them; or so: no. 好，吧", 2, true),
            [&clauses[..2], &["or so:", "no."], &clauses[3..]].concat()
        );
    }

    #[test]
    fn marks_alone_are_not_read_and_a_text_without_end_is_cut_between_words() {
        assert!(units("... !? \n—", 2, false).is_empty());
        let long = "word ".repeat(2000);
        let cut = units(&long, 700, false);
        assert!(cut.iter().all(|unit| unit.chars().count() <= MOST_INPUT && unit.ends_with("word")), "{cut:?}");
        assert_eq!(cut.join(" "), long.trim());
        assert_eq!(units(&"字".repeat(MOST_INPUT + 5), 999, false).concat().chars().count(), MOST_INPUT + 5);
    }

    #[test]
    fn no_text_makes_much_wait_to_be_looked_at_again() {
        // What is looked at again with every piece decides whether the time grows with the length or with its square.
        let most = 4 * MOST_INPUT + PIECE;
        let bytes = 4 * most;
        let spaces = format!(". {}", " ".repeat(MOST_INPUT));
        let brackets = format!("a.{}", ")(".repeat(MOST_INPUT));
        let digits = format!("a. {}", "1 ".repeat(MOST_INPUT));
        for unit in ["a! ", "a, ", "! ", "a", " ", ". ", "字。", "1,", &spaces, &brackets, &digits] {
            let text = unit.repeat(bytes / unit.len());
            for by_clauses in [false, true] {
                let (mut sentences, mut longest) = (Sentences::default(), 0);
                for piece in pieces(&text) {
                    let units = sentences.push(piece, by_clauses);
                    longest = units.iter().map(String::len).fold(longest, usize::max);
                    let name = &unit[..unit.floor_char_boundary(9)];
                    assert!(
                        sentences.text.len() <= most,
                        "{name:?}, {by_clauses}: {} bytes wait",
                        sentences.text.len()
                    );
                    let marks = sentences.text.split(char::is_alphanumeric).map(|marks| marks.chars().count());
                    assert!(marks.max() <= Some(MOST_MARKS), "{name:?}: marks in a row");
                }
                assert!(longest <= 4 * MOST_INPUT);
            }
        }
    }

    #[test]
    fn pieces_are_the_whole_text() {
        let text = "a字é".repeat(PIECE);
        assert_eq!(pieces(&text).collect::<String>(), text);
        assert!(pieces(&text).all(|piece| piece.len() <= PIECE) && pieces("").next().is_none());
    }

    proptest! {
        #[test]
        fn no_letter_is_lost(text in "[a-cA-C .,!?\n。，1é]{0,60}", piece in 1..9usize, by_clauses: bool) {
            let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
            prop_assert_eq!(letters(&units(&text, piece, by_clauses).concat()), letters(&text));
        }
    }
}
