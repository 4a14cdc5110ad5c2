//! Numbers in digits: *twenty five dollars* is `$25`, *nineteen ninety nine* is `1999`, *one oh one* is `101`.

mod reader;
mod value;
mod words;

use regex::Captures;

use crate::pattern::{pattern, replaced};
use words::{Word, word};

/// Writes the numbers of a text in lower case, whose only symbols are `.%$¢€£`, in digits. Words are separated by single spaces.
pub(super) fn in_digits(text: &str) -> String {
    let text = at_boundaries(&with_halves(text));
    let words: Vec<&str> = text.split_whitespace().collect();
    with_cents(&reader::in_digits(&words).join(" "))
}

/// Replaces *and a half* behind a number by *point five*.
fn with_halves(text: &str) -> String {
    let segments: Vec<&str> = pattern!(r"\band\s+a\s+half\b").split(text).collect();
    let mut parts = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let Some(last) = segment.split_whitespace().last() else { continue };
        parts.push(*segment);
        if index + 1 < segments.len() {
            let is_number = word(last).is_some_and(|word| word.is_decimal() || matches!(word, Word::Power(_, "")));
            parts.push(if is_number { "point five" } else { "and a half" });
        }
    }
    parts.join(" ")
}

/// Puts a space between digits and letters that are no suffix.
fn at_boundaries(text: &str) -> String {
    let text = replaced(text, pattern!("([a-z])([0-9])"), "$1 $2");
    let text = replaced(&text, pattern!("([0-9])([a-z])"), "$1 $2");
    replaced(&text, pattern!(r"([0-9])\s+(st|nd|rd|th|s)\b"), "$1$2").into_owned()
}

/// Joins `$2 and ¢7` to `$2.07`, and writes *one*, which is rather a pronoun, as a word.
fn with_cents(text: &str) -> String {
    let number = |digits: &str| digits.parse::<u8>().unwrap_or_default();
    let join = |found: &Captures<'_>| format!("{}{}.{:02}", &found[1], &found[2], number(&found[3]));
    let text = pattern!(r"([€£$])([0-9]+) (?:and )?¢([0-9]{1,2})\b").replace_all(text, join);
    // The point stands for any character, as in the reference.
    let cents = |found: &Captures<'_>| format!("¢{}", number(&found[1]));
    let text = pattern!(r"[€£$]0.([0-9]{1,2})\b").replace_all(&text, cents);
    replaced(&text, pattern!(r"\b1(s?)\b"), "one$1").into_owned()
}
