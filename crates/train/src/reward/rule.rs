use eval::normalise;
use eval::wer::Edits;
use serde_json::Value;

use super::Reward;
use crate::data::Line;
use crate::{Error, Result};

/// Rules that need no judge. They compare with the line's key `solution`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// 1 if the answer is the solution, letter by letter but for spaces around it and case.
    Exact,
    /// 1 if the last number in the answer is that of the solution.
    Number,
    /// 1 if the answer names the solution's letter, as `B`, `(B)` or `B.`, and no other before it.
    Choice,
    /// 1 minus the word error rate against the solution, 0 at least.
    Words,
    /// 1 if the answer is valid JSON.
    Json,
}

impl Rule {
    /// All rules by the names they have in settings.
    pub const ALL: [(&str, Rule); 5] = [
        ("exact", Rule::Exact),
        ("number", Rule::Number),
        ("choice", Rule::Choice),
        ("words", Rule::Words),
        ("json", Rule::Json),
    ];
}

impl std::str::FromStr for Rule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, rule)| *rule).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
            Error::Option { name: "reward", reason: format!("`{name}`, expected one of {}", names.join(", ")) }
        })
    }
}

impl Reward for Rule {
    fn score(&self, line: &Line, answers: &[String]) -> Result<Vec<f64>> {
        if *self == Rule::Json {
            return Ok(answers.iter().map(|answer| f64::from(is_json(answer))).collect());
        }
        let solution = solution(line);
        let solution = solution
            .ok_or_else(|| line.location.refuse("no `solution` (text or number), which the reward compares with"))?;
        let score = |answer: &String| match self {
            Rule::Exact => f64::from(plain(answer) == plain(&solution)),
            Rule::Number => f64::from(last_number(answer).is_some_and(|number| Some(number) == last_number(&solution))),
            Rule::Choice => {
                f64::from(first_letter(answer).is_some_and(|letter| Some(letter) == first_letter(&solution)))
            }
            Rule::Words => {
                let edits = Edits::words(&normalise::basic(&solution), &normalise::basic(answer));
                1.0 - edits.rate().unwrap_or(1.0).min(1.0)
            }
            Rule::Json => f64::from(is_json(answer)),
        };
        Ok(answers.iter().map(score).collect())
    }
}

/// What is right, by the line.
pub(super) fn solution(line: &Line) -> Option<String> {
    match line.extra.get("solution")? {
        Value::String(text) => Some(text.clone()),
        number @ Value::Number(_) => Some(number.to_string()),
        _ => None,
    }
}

fn plain(text: &str) -> String {
    text.trim().to_lowercase()
}

fn is_json(answer: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(answer).is_ok()
}

/// The last number of a text; commas that group digits are left out.
fn last_number(text: &str) -> Option<f64> {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '-');
    let pieces = text.split(|c| !is_part(c)).rev();
    pieces.filter_map(|piece| piece.replace(',', "").trim_end_matches(['.', '-']).parse().ok()).next()
}

/// The first capital letter that stands alone.
fn first_letter(text: &str) -> Option<char> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let mut alone = words.filter_map(|word| {
        let mut letters = word.chars();
        letters.next().filter(|letter| letter.is_ascii_uppercase() && letters.next().is_none())
    });
    alone.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_letters_are_found_where_people_write_them() {
        for (text, number) in [
            ("The sum is 1,234.5.", Some(1234.5)),
            ("7 + 5 = 12", Some(12.0)),
            ("-3", Some(-3.0)),
            ("from 3 to 4 - done", Some(4.0)),
            ("none", None),
        ] {
            assert_eq!(last_number(text), number, "{text}");
        }
        for (text, letter) in
            [("(B) because", Some('B')), ("The answer is C.", Some('C')), ("I", Some('I')), ("no", None)]
        {
            assert_eq!(first_letter(text), letter, "{text}");
        }
    }

    #[test]
    fn unknown_rules_list_the_known_ones() {
        assert_eq!("number".parse::<Rule>().unwrap(), Rule::Number);
        assert!("judge".parse::<Rule>().unwrap_err().to_string().contains("exact, number"));
    }
}
