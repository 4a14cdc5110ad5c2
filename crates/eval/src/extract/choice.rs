use crate::pattern::pattern;

/// Finds which of several options a text chooses: by the letter it names as its answer, by a letter at its beginning, by the only letter
/// in brackets, or else by the words of exactly one option. `None` if it names no option or more than one.
///
/// ```
/// use qwen3_omni_eval::extract::choice;
/// let options = ["rock", "jazz", "punk rock"];
/// assert_eq!(choice("It swings.\n**Answer: B**", &options), Some(1));
/// assert_eq!(choice("This is clearly punk rock.", &options), Some(2));
/// assert_eq!(choice("Rock or jazz.", &options), None);
/// ```
pub fn choice<S: AsRef<str>>(text: &str, options: &[S]) -> Option<usize> {
    let letter = named_letter(text).or_else(|| unrivalled_letter(text));
    let index = letter.map(|letter| usize::from(letter - b'A'));
    index.filter(|index| *index < options.len()).or_else(|| only_option(text, options))
}

/// The last letter behind *answer is* or in `\boxed{}`.
fn named_letter(text: &str) -> Option<u8> {
    let named = pattern!(
        r#"(?m)(?:\b(?i:answer(?:\s+is)?|(?:option|choice)\s+is)\s*:?|\\boxed\{)[\s*$({\["']*(?:\\(?:text|mathrm|boxed)\{)?\(?([A-Z])(?:[)}\].:,;*$"'\\]|\s*$)"#
    );
    letter(named.captures_iter(text).last()?)
}

/// The letter at the beginning, or in brackets, if no other one is in brackets.
fn unrivalled_letter(text: &str) -> Option<u8> {
    let mut bracketed = pattern!(r"\(([A-Z])\)").captures_iter(text).filter_map(letter);
    let first = leading_letter(text).or_else(|| bracketed.next())?;
    bracketed.all(|other| other == first).then_some(first)
}

/// The letter that is the whole text, or stands before a bracket, point or colon at its beginning.
fn leading_letter(text: &str) -> Option<u8> {
    letter(pattern!(r"^[\s*(\[]*([A-Z])(?:[)\].:*]|\s*$)").captures(text)?)
}

fn letter(found: regex::Captures<'_>) -> Option<u8> {
    found.get(1)?.as_str().bytes().next()
}

/// The only option whose words stand in the text, apart from those inside another such option.
fn only_option<S: AsRef<str>>(text: &str, options: &[S]) -> Option<usize> {
    let text = words(text);
    let options: Vec<String> = options.iter().map(|option| words(option.as_ref())).collect();
    let mut found: Vec<usize> = (0..options.len()).filter(|index| is_in(&options[*index], &text)).collect();
    let all = found.clone();
    found.retain(|inner| !all.iter().any(|outer| outer != inner && is_in(&options[*inner], &options[*outer])));
    if let [index] = found[..] { Some(index) } else { None }
}

/// Letters and digits of a text, with spaces around each word.
fn words(text: &str) -> String {
    let text = text.to_lowercase();
    let words = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(" ".to_owned(), |line, word| line + word + " ")
}

fn is_in(option: &str, text: &str) -> bool {
    !option.trim().is_empty() && text.contains(option)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: [&str; 4] = ["a large dog", "a dog", "two cats", "none of these"];

    #[test]
    fn letters_are_found_where_models_write_them() {
        for text in [
            "C",
            "(C)",
            "C.",
            "C) two cats",
            "**C**",
            "Answer: C",
            "**Answer:** C",
            "Answer: **C**",
            "answer is (C).",
            "The correct answer is: C. two cats",
            "First I thought the answer is A.\nBut the answer is C.",
            r"Thus $\boxed{C}$",
            r"\boxed{\text{C}}",
            "The right option is C, since option A: no.",
            "It must be (C), as I said: (C).",
            "Two cats!",
        ] {
            assert_eq!(choice(text, &OPTIONS), Some(2), "{text}");
        }
    }

    #[test]
    fn brackets_tell_options_apart() {
        let guitars = ["Guitar (acoustic)", "Guitar (electric)", "Drums"];
        assert_eq!(choice("I hear a guitar (electric).", &guitars), Some(1));
        assert_eq!(choice("I hear a guitar.", &guitars), None);
        assert_eq!(choice("10 J", &["10^4 J", "10^-4 J"]), None);
    }

    #[test]
    fn an_article_is_no_letter_and_two_options_are_no_choice() {
        assert_eq!(choice("The answer is A dog", &OPTIONS), Some(1));
        assert_eq!(choice("The answer is a large dog", &OPTIONS), Some(0));
        for text in ["", "E", "a dog and two cats", "(A) or (B)", "option A is wrong", "I do not know"] {
            assert_eq!(choice(text, &OPTIONS), None, "{text}");
        }
    }
}
