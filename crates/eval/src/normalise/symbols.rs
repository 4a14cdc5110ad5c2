//! Symbols and diacritics.

use unicode_normalization::UnicodeNormalization;

use crate::pattern::{pattern, replaced};

/// Letters with a mark that no decomposition separates.
const PLAIN: [(char, &str); 16] = [
    ('œ', "oe"),
    ('Œ', "OE"),
    ('ø', "o"),
    ('Ø', "O"),
    ('æ', "ae"),
    ('Æ', "AE"),
    ('ß', "ss"),
    ('ẞ', "SS"),
    ('đ', "d"),
    ('Đ', "D"),
    ('ð', "d"),
    ('Ð', "D"),
    ('þ', "th"),
    ('Þ', "th"),
    ('ł', "l"),
    ('Ł', "L"),
];

/// Replaces marks, symbols and punctuation by spaces; letters keep their diacritics.
pub(super) fn letters(text: &str) -> String {
    let composed: String = text.nfkc().collect();
    replaced(&composed, pattern!(r"[\p{M}\p{S}\p{P}]"), " ").into_owned()
}

/// Replaces symbols and punctuation by spaces, except those of numbers and currencies, and removes diacritics.
pub(super) fn plain_letters(text: &str) -> String {
    let decomposed: String = text.nfkd().collect();
    let text = replaced(&decomposed, pattern!(r"\p{Mn}"), "");
    let text = replaced(&text, pattern!(r"[\p{M}\p{S}\p{P}--.%$¢€£]"), " ");
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match PLAIN.iter().find(|(marked, _)| *marked == letter) {
            Some((_, letters)) => plain.push_str(letters),
            None => plain.push(letter),
        }
    }
    plain
}
