//! Text that arrives in pieces, cut where it can be spoken.

use unicode_segmentation::UnicodeSegmentation;

use super::speech::MOST_INPUT;

/// Collects text and gives away what is complete, in units that are spoken one after the other.
#[derive(Debug, Default)]
pub(super) struct Sentences {
    text: String,
}

impl Sentences {
    /// Takes more text and returns the sentences that are complete, or the clauses. The end of one is known when the next begins.
    pub(super) fn push(&mut self, text: &str, by_clauses: bool) -> Vec<String> {
        self.text.push_str(text);
        let mut done = 0;
        let mut units = Vec::new();
        while let Some(length) = complete(&self.text[done..], by_clauses) {
            units.extend(spoken(&self.text[done..done + length]));
            done += length;
        }
        self.text.drain(..done);
        units
    }

    /// Returns the rest.
    pub(super) fn finish(&mut self) -> Option<String> {
        spoken(&std::mem::take(&mut self.text))
    }
}

/// Length of the first unit, if it is complete.
fn complete(text: &str, by_clauses: bool) -> Option<usize> {
    let longest = text.char_indices().nth(MOST_INPUT).map(|(at, _)| at);
    let text = &text[..longest.unwrap_or(text.len())];
    let sentence = text.split_sentence_bound_indices().nth(1).map(|(at, _)| at);
    let clause = by_clauses.then(|| clause(&text[..sentence.unwrap_or(text.len())])).flatten();
    // More than can be read at once is cut between two words.
    let most = || longest.map(|_| text.rfind(char::is_whitespace).filter(|at| *at > 0).unwrap_or(text.len()));
    clause.or(sentence).or_else(most)
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

    proptest! {
        #[test]
        fn no_letter_is_lost(text in "[a-cA-C .,!?\n。，1é]{0,60}", piece in 1..9usize, by_clauses: bool) {
            let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
            prop_assert_eq!(letters(&units(&text, piece, by_clauses).concat()), letters(&text));
        }
    }
}
