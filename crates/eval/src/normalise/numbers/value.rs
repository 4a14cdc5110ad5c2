//! A number that is being read.

use std::fmt;

/// What was read of a number so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A whole number, which later words may be added to.
    Whole(u128),
    /// Digits, perhaps with a point, which later digits are written behind.
    Digits(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => write!(f, "{value}"),
            Self::Digits(digits) => f.write_str(digits),
        }
    }
}

impl Value {
    /// Reads a numeral as `12` or `2.50`; a whole number loses its point and leading zeros.
    pub(super) fn of_numeral(numeral: &str) -> Self {
        times_power_of_ten(numeral, 0).map_or_else(|| Self::Digits(numeral.to_owned()), Self::Whole)
    }

    /// Whether digits follow a point that was just read.
    pub(super) fn ends_with_point(&self) -> bool {
        matches!(self, Self::Digits(digits) if digits.ends_with('.'))
    }

    /// Writes `digits` behind the number.
    pub(super) fn then(&self, digits: impl fmt::Display) -> Self {
        Self::Digits(format!("{self}{digits}"))
    }

    /// Adds `value` if the number is a multiple of `round`, as *five* to *twenty*; otherwise writes it behind the number, as in *five
    /// twenty*.
    pub(super) fn plus(&self, value: u128, round: u128) -> Self {
        match self {
            Self::Whole(number) if number % round == 0 => Self::Whole(number.saturating_add(value)),
            _ => self.then(value),
        }
    }

    /// Puts a digit in place of the last one, which is a zero: *two twenty five* is 225.
    pub(super) fn with_last_digit(&self, digit: u128) -> Self {
        let mut digits = self.to_string();
        digits.pop();
        Self::Digits(format!("{digits}{digit}"))
    }

    /// Multiplies by a power of ten. Of a whole number only the part below its thousands is multiplied, as in *two thousand five hundred*.
    /// `None` if the product is not a whole number.
    pub(super) fn times_power_of_ten(&self, power: u32) -> Option<Self> {
        let product = match self {
            Self::Whole(number) => {
                let below = number % 1000;
                (number - below).saturating_add(below.saturating_mul(10_u128.pow(power)))
            }
            Self::Digits(digits) => times_power_of_ten(digits, power)?,
        };
        Some(Self::Whole(product))
    }
}

/// A decimal number times a power of ten. `None` if the product is not a whole number, or has more than 38 digits.
fn times_power_of_ten(decimal: &str, power: u32) -> Option<u128> {
    let (whole, decimals) = decimal.split_once('.').unwrap_or((decimal, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || whole.len() + decimals.len() == 0 {
        return None;
    }
    let decimals = decimals.trim_end_matches('0');
    let zeros = power.checked_sub(u32::try_from(decimals.len()).ok()?)?;
    format!("0{whole}{decimals}").parse::<u128>().ok()?.checked_mul(10_u128.pow(zeros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_become_whole_numbers_where_they_can() {
        assert_eq!(times_power_of_ten("1.5", 6), Some(1_500_000));
        assert_eq!(times_power_of_ten("007.0", 0), Some(7));
        assert_eq!(times_power_of_ten("5.", 1), Some(50));
        for odd in ["2.555", "1.2.3", ".", "", "1.$5"] {
            assert_eq!(times_power_of_ten(odd, 2), None, "{odd}");
        }
        assert_eq!(times_power_of_ten(&"9".repeat(39), 0), None);
    }

    #[test]
    fn a_power_of_ten_counts_below_the_thousands() {
        assert_eq!(Value::Whole(2005).times_power_of_ten(2), Some(Value::Whole(2500)));
        assert_eq!(Value::Digits("2.5".into()).times_power_of_ten(2), Some(Value::Whole(250)));
    }
}
