use crate::normalise::english;
use crate::pattern::pattern;

/// Finds the whole number that a text gives as its answer: in the last `\boxed{}`, behind the last *answer is*, or else the last one of
/// the text, in digits or, if there are none, in English words.
///
/// ```
/// use qwen3_omni_eval::extract::integer;
/// assert_eq!(integer(r"2 + 2 = 4, so it is $\boxed{073}$. Checked 5 times."), Some(73));
/// assert_eq!(integer("seven plus five is twelve"), Some(12));
/// ```
pub fn integer(text: &str) -> Option<i64> {
    boxed(text).or_else(|| named(text)).or_else(|| last(text)).or_else(|| last(&english(text)))
}

fn boxed(text: &str) -> Option<i64> {
    let found = pattern!(r"\\boxed\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}").captures_iter(text).last()?;
    last(&found[1])
}

fn named(text: &str) -> Option<i64> {
    let found = pattern!(r"(?i)\banswer(?:\s+is)?\s*[:=]?[\s*$(]*([-−]?\d[\d,]*)(?:[^\d.]|\.\D|\.?$)");
    number(found.captures_iter(text).last()?.get(1)?.as_str())
}

/// Returns the last whole number; decimals do not count.
fn last(text: &str) -> Option<i64> {
    let numbers = pattern!(r"[-−]?\d[\d,]*(?:\.\d+)?").find_iter(text).filter_map(|found| number(found.as_str()));
    numbers.last()
}

fn number(digits: &str) -> Option<i64> {
    digits.replace('−', "-").replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_that_is_meant_is_found() {
        for (text, expected) in [
            (r"\boxed{1} then \boxed{204}", Some(204)),
            (r"\boxed{\text{204}}", Some(204)),
            ("**Answer: 204**. There are 3 cases.", Some(204)),
            ("The answer is $204$.", Some(204)),
            ("the final answer is 1,204.", Some(1204)),
            ("m + n = 25 + 8 = 033", Some(33)),
            ("It is −7", Some(-7)),
            ("about 2.5, so 3", Some(3)),
            ("one hundred and five", Some(105)),
            ("none", None),
            ("", None),
        ] {
            assert_eq!(integer(text), expected, "{text}");
        }
    }
}
