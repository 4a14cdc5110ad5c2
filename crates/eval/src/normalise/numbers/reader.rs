//! Words to numbers, one word at a time.

use super::value::Value;
use super::words::{Word, word};

/// A word of the text.
#[derive(Debug, Clone, Copy)]
enum Token<'t> {
    /// `12`, `2.50`, `$5`.
    Numeral {
        sign: Option<char>,
        digits: &'t str,
    },
    Number(Word),
    Other,
}

impl<'t> Token<'t> {
    fn new(text: &'t str) -> Self {
        let digits = text.trim_start_matches(['-', '+', '£', '€', '$', '¢']);
        let sign = text.chars().next().filter(|_| digits.len() < text.len());
        let is_single = sign.is_none_or(|sign| sign.len_utf8() + digits.len() == text.len());
        match word(text) {
            _ if is_single && is_numeral(digits) => Self::Numeral { sign, digits },
            Some(word) => Self::Number(word),
            None => Self::Other,
        }
    }

    /// Whether a sign or *and* may stand before this.
    fn is_number(self) -> bool {
        matches!(self, Self::Numeral { sign: None, .. } | Self::Number(_))
    }

    fn word(self) -> Option<Word> {
        if let Self::Number(word) = self { Some(word) } else { None }
    }
}

fn is_numeral(text: &str) -> bool {
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').map_or(is_digits(text), |(whole, decimals)| is_digits(whole) && is_digits(decimals))
}

/// A word and its neighbours.
struct Context<'t> {
    text: &'t str,
    token: Token<'t>,
    before: Option<Word>,
    next: Option<(&'t str, Token<'t>)>,
}

impl Context<'_> {
    /// Whether a number may go on with the next word.
    fn leads_to_number(&self) -> bool {
        self.next.is_some_and(|(_, token)| token.is_number())
    }

    fn next_word(&self) -> Option<Word> {
        self.next.and_then(|(_, token)| token.word())
    }

    /// The next word as a digit that can be doubled.
    fn next_digit(&self) -> Option<u128> {
        match self.next_word()? {
            Word::Ones(ones, "") => Some(ones),
            Word::Zero => Some(0),
            _ => None,
        }
    }
}

/// Writes numbers among words in digits.
pub(super) fn in_digits(words: &[&str]) -> Vec<String> {
    let tokens: Vec<(&str, Token<'_>)> = words.iter().map(|word| (*word, Token::new(word))).collect();
    let mut reader = Reader::default();
    let mut index = 0;
    while let Some((text, token)) = tokens.get(index).copied() {
        let before = index.checked_sub(1).and_then(|before| tokens[before].1.word());
        index += reader.read(&Context { text, token, before, next: tokens.get(index + 1).copied() });
    }
    reader.finish_number();
    reader.out
}

#[derive(Default)]
struct Reader {
    /// A sign before the number, or before whatever is written next.
    sign: Option<char>,
    value: Option<Value>,
    out: Vec<String>,
}

impl Reader {
    /// Reads a word and returns how many were taken: 1, or 2 with the next one.
    fn read(&mut self, context: &Context<'_>) -> usize {
        let is_pair = match context.token {
            Token::Number(Word::Per) => self.value.is_some() && context.next.is_some_and(|(text, _)| text == "cent"),
            Token::Number(Word::Repeat(_)) => context.next_digit().is_some(),
            _ => false,
        };
        match context.token {
            Token::Numeral { sign, digits } => self.numeral(context.text, sign, digits),
            Token::Number(Word::Per) if is_pair => self.percent(context.text),
            Token::Number(Word::Repeat(times)) if is_pair => {
                let digit = context.next_digit().unwrap_or(0).to_string();
                self.value = Some(self.digits_then(&digit.repeat(times)));
            }
            Token::Number(word) => self.word(word, context),
            Token::Other => self.plain(context.text),
        }
        if is_pair { 2 } else { 1 }
    }

    fn word(&mut self, word: Word, context: &Context<'_>) {
        match word {
            Word::Zero => self.value = Some(self.digits_then("0")),
            Word::Ones(ones, suffix) => self.set(self.with_ones(ones, context.before), suffix),
            Word::Tens(tens, suffix) => self.set(self.with_tens(tens), suffix),
            Word::Power(power, suffix) => self.multiply(power, suffix),
            Word::Sign(sign) => {
                self.finish_number();
                if context.leads_to_number() { self.sign = Some(sign) } else { self.write(context.text) }
            }
            Word::Currency(sign) if self.value.is_some() => {
                self.sign = Some(sign);
                self.finish_number();
            }
            Word::Currency(_) => self.write(context.text),
            Word::Percent => self.percent(context.text),
            // *hundred and one*; elsewhere it ends a number.
            Word::And if context.leads_to_number() && matches!(context.before, Some(Word::Power(_, ""))) => {}
            Word::Point if context.leads_to_number() => {
                if context.next_word().is_none_or(Word::is_decimal) {
                    self.value = Some(self.digits_then("."));
                }
            }
            Word::Per | Word::And | Word::Repeat(_) | Word::Point => self.plain(context.text),
        }
    }

    fn numeral(&mut self, text: &str, sign: Option<char>, digits: &str) {
        match &self.value {
            // The decimals of a number, or the next part of an address.
            Some(value) if value.ends_with_point() => self.value = Some(value.then(text)),
            _ => {
                self.finish_number();
                self.sign = sign.or(self.sign);
                self.value = Some(Value::of_numeral(digits));
            }
        }
    }

    /// The number with 1 to 19 behind it.
    fn with_ones(&self, ones: u128, before: Option<Word>) -> Value {
        let follows_ones = matches!(before, Some(Word::Ones(_, "")));
        match &self.value {
            None => Value::Whole(ones),
            Some(value) if follows_ones => Value::then(value, ones),
            Some(value @ Value::Digits(_)) if ones < 10 && matches!(before, Some(Word::Tens(_, ""))) => {
                value.with_last_digit(ones)
            }
            Some(value) => value.plus(ones, if ones < 10 { 10 } else { 100 }),
        }
    }

    /// The number with 20 to 90 behind it.
    fn with_tens(&self, tens: u128) -> Value {
        self.value.as_ref().map_or(Value::Whole(tens), |value| value.plus(tens, 100))
    }

    /// Keeps a number that may go on, or writes one that a suffix ends.
    fn set(&mut self, value: Value, suffix: &str) {
        match suffix {
            "" => self.value = Some(value),
            suffix => self.write(&format!("{value}{suffix}")),
        }
    }

    fn multiply(&mut self, power: u32, suffix: &str) {
        let one = Value::Whole(10_u128.pow(power));
        let product = match &self.value {
            None => one,
            Some(value) => match value.times_power_of_ten(power) {
                Some(product) => product,
                None => {
                    self.finish_number();
                    one
                }
            },
        };
        self.set(product, suffix);
    }

    fn percent(&mut self, text: &str) {
        match self.value.take() {
            Some(value) => self.write(&format!("{value}%")),
            None => self.write(text),
        }
    }

    /// A word that ends a number.
    fn plain(&mut self, text: &str) {
        self.finish_number();
        self.write(text);
    }

    /// Appends digits to those read so far; a lone 0 before them is dropped.
    fn digits_then(&self, digits: &str) -> Value {
        match &self.value {
            None | Some(Value::Whole(0)) => Value::Digits(digits.to_owned()),
            Some(value) => value.then(digits),
        }
    }

    fn finish_number(&mut self) {
        if let Some(value) = self.value.take() {
            self.write(&value.to_string());
        }
    }

    fn write(&mut self, text: &str) {
        self.value = None;
        let sign = self.sign.take().map_or_else(String::new, String::from);
        self.out.push(sign + text);
    }
}
