//! Sums and differences in words.

use serde_json::json;

use crate::data::typed::line::spaced;
use crate::data::world::words::number;

/// A sum, or a difference that is not below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// The first number.
    pub left: u8,
    /// Whether the second is added, or else taken away.
    pub plus: bool,
    /// The second number.
    pub right: u8,
}

impl Sum {
    /// All of numbers below ten.
    pub fn all() -> Vec<Self> {
        let numbers = |plus: bool| {
            (0..10).flat_map(move |left| {
                let end = if plus { 10 } else { left + 1 };
                (0..end).map(move |right| Self { left, plus, right })
            })
        };
        numbers(true).chain(numbers(false)).collect()
    }

    /// What it makes.
    pub fn result(self) -> u8 {
        if self.plus { self.left + self.right } else { self.left - self.right }
    }

    fn words(self) -> String {
        let sign = if self.plus { "plus" } else { "minus" };
        format!("{} {sign} {}", number(self.left), number(self.right))
    }

    /// The question.
    pub fn question(self) -> String {
        format!("what is {}", self.words())
    }

    /// The whole answer.
    pub fn answer(self) -> String {
        format!("{} is {}", self.words(), number(self.result()))
    }

    /// The answer as JSON.
    pub fn json(self) -> String {
        let [left, right, result] = [self.left, self.right, self.result()].map(number);
        spaced(&json!({"left": left, "right": right, "result": result}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_155_sums_and_their_words_are_right() {
        assert_eq!(Sum::all().len(), 155);
        let sum = Sum { left: 7, plus: true, right: 5 };
        assert_eq!(sum.question(), "what is seven plus five");
        assert_eq!(sum.answer(), "seven plus five is twelve");
        assert_eq!(sum.json(), r#"{"left": "seven", "right": "five", "result": "twelve"}"#);
        assert_eq!(Sum { left: 7, plus: false, right: 5 }.answer(), "seven minus five is two");
    }
}
