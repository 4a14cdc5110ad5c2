//! The words of numbers.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A word that belongs to numbers. A suffix makes an ordinal or a plural of it: `th` of *fifth*, `s` of *fifties*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// 0, as *zero*, *oh* or *o*.
    Zero,
    /// 1 to 19; 0 of *zeroth*.
    Ones(u128, &'static str),
    /// 20, 30 to 90.
    Tens(u128, &'static str),
    /// A power of ten.
    Power(u32, &'static str),
    /// *minus*: a sign before a number.
    Sign(char),
    /// *dollars*: its sign is written before the number it follows.
    Currency(char),
    /// *percent*.
    Percent,
    /// *per*, of *per cent*.
    Per,
    /// *and*, of *hundred and one*.
    And,
    /// *double* and *triple*: the next digit, this many times.
    Repeat(usize),
    /// *point*, before decimals.
    Point,
}

impl Word {
    /// Whether a numeral can have this word behind its point.
    pub(super) fn is_decimal(self) -> bool {
        matches!(self, Word::Zero | Word::Ones(_, "") | Word::Tens(_, ""))
    }
}

const ONES: [&str; 19] = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];

/// Ordinals that do not end in `th`, or not regularly.
const ORDINALS: [(&str, u128, &str); 6] = [
    ("zeroth", 0, "th"),
    ("first", 1, "st"),
    ("second", 2, "nd"),
    ("third", 3, "rd"),
    ("fifth", 5, "th"),
    ("twelfth", 12, "th"),
];

const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

const POWERS: [(&str, u32); 12] = [
    ("hundred", 2),
    ("thousand", 3),
    ("million", 6),
    ("billion", 9),
    ("trillion", 12),
    ("quadrillion", 15),
    ("quintillion", 18),
    ("sextillion", 21),
    ("septillion", 24),
    ("octillion", 27),
    ("nonillion", 30),
    ("decillion", 33),
];

const OTHERS: [(&str, Word); 21] = [
    ("o", Word::Zero),
    ("oh", Word::Zero),
    ("zero", Word::Zero),
    ("minus", Word::Sign('-')),
    ("negative", Word::Sign('-')),
    ("plus", Word::Sign('+')),
    ("positive", Word::Sign('+')),
    ("pound", Word::Currency('£')),
    ("pounds", Word::Currency('£')),
    ("euro", Word::Currency('€')),
    ("euros", Word::Currency('€')),
    ("dollar", Word::Currency('$')),
    ("dollars", Word::Currency('$')),
    ("cent", Word::Currency('¢')),
    ("cents", Word::Currency('¢')),
    ("percent", Word::Percent),
    ("per", Word::Per),
    ("and", Word::And),
    ("double", Word::Repeat(2)),
    ("triple", Word::Repeat(3)),
    ("point", Word::Point),
];

static WORDS: LazyLock<HashMap<String, Word>> = LazyLock::new(|| {
    let mut words: HashMap<String, Word> = OTHERS.iter().map(|(name, word)| ((*name).into(), *word)).collect();
    for (name, value) in ONES.iter().zip(1..) {
        words.insert((*name).into(), Word::Ones(value, ""));
        words.insert(if value == 6 { "sixes".into() } else { format!("{name}s") }, Word::Ones(value, "s"));
        if !ORDINALS.iter().any(|(_, irregular, _)| *irregular == value) {
            words.insert(regular_ordinal(name), Word::Ones(value, "th"));
        }
    }
    words.extend(ORDINALS.iter().map(|(name, value, suffix)| ((*name).into(), Word::Ones(*value, suffix))));
    for (name, value) in TENS.iter().zip((20..).step_by(10)) {
        words.insert((*name).into(), Word::Tens(value, ""));
        words.insert(name.replace('y', "ies"), Word::Tens(value, "s"));
        words.insert(name.replace('y', "ieth"), Word::Tens(value, "th"));
    }
    for (name, power) in POWERS {
        for (ending, suffix) in [("", ""), ("s", "s"), ("th", "th")] {
            words.insert(format!("{name}{ending}"), Word::Power(power, suffix));
        }
    }
    words
});

/// Makes the ordinal of a number word as the reference does: by appending alone, so that *ninth* is not read as a number.
fn regular_ordinal(name: &str) -> String {
    format!("{name}{}", if name.ends_with('t') { "h" } else { "th" })
}

/// Looks up a word in lower case.
pub(super) fn word(text: &str) -> Option<Word> {
    WORDS.get(text).copied()
}
