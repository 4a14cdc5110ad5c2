use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Which parameters a stage trains: patterns over names on disk, `+` to train and `-` to freeze; the last match decides,
/// and a parameter without a match is frozen. `*` stands for any characters.
///
/// ```
/// use qwen3_omni_train::Patterns;
/// let patterns: Patterns = "+thinker.* -thinker.visual.*".parse()?;
/// assert!(patterns.matches("thinker.lm_head.weight"));
/// assert!(!patterns.matches("thinker.visual.merger.ln_q.weight"));
/// # Ok::<(), qwen3_omni_train::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patterns(Vec<(bool, String)>);

impl Patterns {
    /// Whether the parameter of this name is trained.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().rev().find(|(_, pattern)| matches(pattern, name)).is_some_and(|(train, _)| *train)
    }
}

/// Matches pieces between stars one after another; each star takes as little as it can.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match name.split_once(piece) {
            Some((_, after)) => name = after,
            None => return false,
        }
    }
    name.ends_with(last)
}

impl FromStr for Patterns {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let pattern = |word: &str| match word.split_at_checked(1) {
            Some(("+", pattern)) if !pattern.is_empty() => Ok((true, pattern.to_owned())),
            Some(("-", pattern)) if !pattern.is_empty() => Ok((false, pattern.to_owned())),
            _ => Err(Error::Pattern(word.to_owned())),
        };
        text.split_whitespace().map(pattern).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |(train, pattern): &(bool, String)| format!("{}{pattern}", if *train { '+' } else { '-' });
        f.write_str(&self.0.iter().map(word).collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let patterns: Patterns = "+thinker.* -thinker.visual.* +thinker.visual.merger*.weight".parse().unwrap();
        let trained = |name: &str| patterns.matches(name);
        assert!(trained("thinker.model.norm.weight"));
        assert!(!trained("thinker.visual.blocks.0.norm1.weight"));
        assert!(trained("thinker.visual.merger_list.0.ln_q.weight"));
        assert!(!trained("thinker.visual.merger_list.0.ln_q.bias"));
        assert!(!trained("talker.model.norm.weight"));
        assert_eq!(patterns.to_string().parse::<Patterns>().unwrap(), patterns);
    }

    #[test]
    fn a_star_takes_any_characters_and_no_more_than_there_are() {
        for (pattern, name, expected) in [
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", true),
            ("a*b", "a", false),
            ("*", "", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn a_pattern_without_a_sign_is_refused_by_its_text() {
        for text in ["thinker.*", "+", "?x"] {
            let message = text.parse::<Patterns>().unwrap_err().to_string();
            assert!(message.contains(text), "{message}");
        }
    }
}
