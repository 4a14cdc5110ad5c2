//! Regular expressions that are compiled once.

use std::borrow::Cow;

use regex::Regex;

/// A pattern, compiled when it is first used.
macro_rules! pattern {
    ($pattern:literal) => {{
        static PATTERN: std::sync::LazyLock<regex::Regex> =
            std::sync::LazyLock::new(|| regex::Regex::new($pattern).expect("a valid pattern"));
        &*PATTERN
    }};
}
pub(crate) use pattern;

/// The text with all matches of a pattern replaced; `$1` is the first group.
pub(crate) fn replaced<'t>(text: &'t str, pattern: &Regex, replacement: &str) -> Cow<'t, str> {
    pattern.replace_all(text, replacement)
}
