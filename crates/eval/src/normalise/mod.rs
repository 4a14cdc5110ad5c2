//! Text as the field compares it: Whisper's normalisers (appendix C of its [paper](https://cdn.openai.com/papers/whisper.pdf)).
//!
//! They give what the Python package `whisper-normalizer` 0.1 gives, its oddities included, so that figures can be compared with published
//! ones; `fixtures/` has some hundred cases. Three rare cases differ: numbers of more than 38 digits are not
//! multiplied, numerals are ASCII digits, and a sign as `½` right at a letter ends the word there.

mod contractions;
mod numbers;
mod seed_tts;
mod spelling;
mod symbols;

use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

pub use seed_tts::seed_tts;

use crate::pattern::{pattern, replaced};

/// Rules by which texts become comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normaliser {
    /// [`english`].
    English,
    /// [`basic`], for languages that write spaces between words.
    Basic,
    /// [`characters`], for languages that do not.
    Characters,
}

/// Languages that are compared by character, as codes of ISO 639.
const BY_CHARACTER: [&str; 12] = ["zh", "cmn", "yue", "wuu", "nan", "ja", "jpn", "th", "lo", "my", "mya", "km"];

impl Normaliser {
    /// The rules for a language: a code as `en`, `en_us`, `zh-CN` or `cmn_hans_cn`.
    pub fn of_language(code: &str) -> Self {
        let language = code.split(['_', '-']).next().unwrap_or_default().to_lowercase();
        match language.as_str() {
            "en" | "eng" | "english" => Self::English,
            other if BY_CHARACTER.contains(&other) => Self::Characters,
            _ => Self::Basic,
        }
    }

    /// Normalises a text.
    pub fn apply(self, text: &str) -> String {
        match self {
            Self::English => english(text),
            Self::Basic => basic(text),
            Self::Characters => characters(text),
        }
    }
}

/// Normalises English: numbers in digits, contractions written out, American spelling, no punctuation, no fillers.
///
/// ```
/// use qwen3_omni_eval::normalise::english;
/// assert_eq!(english("Um, Mr. Smith's colour isn't grey."), "mister smith is color is not gray");
/// assert_eq!(english("Twenty-five million dollars"), "$25000000");
/// ```
///
/// A space may stay at the end, as in the reference: what is compared are words.
pub fn english(text: &str) -> String {
    let text = without_brackets(&text.to_lowercase());
    let text = replaced(&text, pattern!(r"\b(hmm|mm|mhm|mmm|uh|um)\b"), "");
    let text = replaced(&text, pattern!(r"\s+'"), "'");
    let text = contractions::written_out(text.into_owned());
    let text = replaced(&text, pattern!(r"(\d),(\d)"), "$1$2");
    let text = replaced(&text, pattern!(r"\.([^0-9]|$)"), " $1");
    let text = numbers::in_digits(&symbols::plain_letters(&text));
    let text = spelling::american(&text);
    // Periods, currency signs and percent signs that are not attached to a number are removed.
    let text = replaced(&text, pattern!(r"[.$¢€£]([^0-9])"), " $1");
    let text = replaced(&text, pattern!(r"([^0-9])%"), "$1 ");
    single_spaces(&text)
}

/// Normalises any language: lower case, no punctuation, nothing in brackets.
///
/// ```
/// use qwen3_omni_eval::normalise::basic;
/// assert_eq!(basic("Grüße [Musik] aus Köln"), "grüße aus köln");
/// ```
pub fn basic(text: &str) -> String {
    single_spaces(&basic_symbols(text))
}

/// Normalises as [`basic`] and puts a space after each character, so that words are characters.
///
/// ```
/// use qwen3_omni_eval::normalise::characters;
/// assert_eq!(characters("你好，世界"), "你 好 世 界");
/// ```
pub fn characters(text: &str) -> String {
    let text = basic_symbols(text);
    single_spaces(&text.graphemes(true).collect::<Vec<_>>().join(" "))
}

fn basic_symbols(text: &str) -> String {
    symbols::letters(&without_brackets(&text.to_lowercase())).to_lowercase()
}

/// Removes what stands in square, angle or round brackets.
fn without_brackets(text: &str) -> String {
    let text = replaced(text, pattern!(r"[<\[][^>\]]*[>\]]"), "");
    replaced(&text, pattern!(r"\(([^)]+?)\)"), "").into_owned()
}

fn single_spaces(text: &str) -> String {
    replaced(text, pattern!(r"\s+"), " ").into_owned()
}
